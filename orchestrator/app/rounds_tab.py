"""Lays out the tab with the pseudo-labels of a run and the marks on them, and says what each control does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cellsemi.configs.errors import RunError
from cellsemi.orchestrator.app.cells_tab import FOLLOW, PLAIN, Told, place_of
from cellsemi.orchestrator.app.pictures import Pictures
from cellsemi.orchestrator.app.pseudo import ANY, HEADS, STATES, Browser, Order, PseudoImage, Wanted
from cellsemi.orchestrator.review.add import Taken
from cellsemi.orchestrator.review.marks import hand_over
from cellsemi.rounds.pseudo_labels.filter import REASONS
from cellsemi.rounds.review.marks import Verdict, read_all_marks
from cellsemi.rounds.store.run import RunPaths

LEGEND = (
    "Outlines: green accepted, orange ignored, red rejected. Filled: blue marked right, pink wrong, yellow ignore. "
    "White: the chosen cell."
)
HOW = (
    "**Right**: this is a cell, with this outline. **Wrong**: there is no cell here, it becomes background. "
    "**Ignore**: a cell with a bad outline, or you cannot tell. To redraw one, use `cellsemi review`. The rest of an "
    "image with marks teaches nothing, until you say that you have seen it whole."
)
COMPLETE = "I have seen the whole image: accepted cells without a mark are right, and no cell is missing"
CLICK = "Click a cell in the picture or a row of the table to choose it."
KINDS: list[Any] = ["number", *["str"] * 4, *["number"] * 4]  # of the columns of HEADS
NO_ROUND = "No round has pseudo-labels yet. Refresh when one has."


@dataclass(slots=True, eq=False)
class Looked:
    """What one browser tab looks at."""

    image: PseudoImage | None = None
    chosen: int | None = None


def words_of(taken: Taken) -> str:
    """What became of the marks, as Markdown."""
    lines = [
        f"{len(taken.images)} images are human labels from round {taken.from_round} on: "
        f"`cellsemi round --n {taken.from_round} --run {taken.run}` learns from them."
        if taken.images
        else "Nothing was handed over."
    ]
    lines += [
        f"- {name}: {image.kept} cells, {image.removed} that are none" + (", the rest is not labelled" * image.partly)
        for name, image in taken.images.items()
    ]
    return "\n".join([*lines, *(f"- {name}: left as it was, {why}" for name, why in taken.left.items())])


def waiting(paths: RunPaths) -> str:
    """How many marks there are, as a sentence."""
    marked = list(read_all_marks(paths.marks))
    count = sum(len(each.marks) for each in marked)
    return f"{count} marks in {len(marked)} images, kept in `{paths.marks.name}/` of the run."


def build(browser: Browser, paths: RunPaths, pictures: Pictures, told: Told, page: Any) -> None:
    """The tab, inside of the gr.Blocks `page`, which loads the list of rounds when it is opened."""
    import gradio as gr

    looked = gr.State(Looked())
    with gr.Row():
        number = gr.Dropdown([], label="Round", elem_id="round", min_width=90)
        order = gr.Radio([("most need first", "need"), ("by name", "name")], value="need", label="Order of the images")
        contains = gr.Textbox("", label="Name contains (Enter)", max_lines=1, min_width=140)
        image = gr.Dropdown([], label="Image", elem_id="pseudo-image", scale=2)
        refresh = gr.Button("Refresh", elem_id="refresh", min_width=90, scale=0)
    found = gr.Markdown(elem_id="found")
    filters = _filters()
    with gr.Row():
        with gr.Column(scale=3, min_width=420):
            picture = gr.Image(
                label="The pseudo-labels", show_label=False, alt_text="The image with its pseudo-labels",
                interactive=False, type="filepath", elem_id="pseudo-picture", buttons=["fullscreen"],
            )  # fmt: skip
            gr.Markdown(LEGEND)
        with gr.Column(scale=2, min_width=320):
            cell = gr.Markdown(CLICK, elem_id="pseudo-cell")
            which = gr.Textbox("", label="or type the number of a cell (Enter)", max_lines=1, elem_id="which")
            with gr.Row():
                right = gr.Button("Right", variant="primary", elem_id="mark-right", min_width=60)
                wrong = gr.Button("Wrong", elem_id="mark-wrong", min_width=60)
                ignore = gr.Button("Ignore", elem_id="mark-ignore", min_width=60)
                clear = gr.Button("No mark", elem_id="mark-none", min_width=60)
            gr.Markdown(HOW)
            complete = gr.Checkbox(label=COMPLETE, elem_id="complete")
            table = gr.Dataframe(
                headers=list(HEADS), datatype=KINDS, interactive=False,
                label="The cells: click a row to choose one", max_height=320, elem_id="pseudo-table", type="array",
            )  # fmt: skip
            marks = gr.Markdown(elem_id="marks")
            give = gr.Button("Hand all marks over to the next round", variant="primary", elem_id="hand-over")
            result = gr.Markdown(elem_id="result")
    tab = _Rounds(browser, paths, pictures)
    cells = [looked, *filters]
    seen = [picture, table, cell]
    listed = [number, order, contains, image]
    quick: dict[str, Any] = {**FOLLOW, "show_progress": "hidden"}
    opened = [looked, *seen, complete, found, which]
    refill = [number, image, marks]
    wanted = [number, image, *filters]
    new_list = [page.load, refresh.click, number.input, order.input, contains.submit]
    gr.on(new_list, told(tab.refresh), listed, refill, **FOLLOW).then(told(tab.open), wanted, opened, **FOLLOW)
    image.input(told(tab.open), wanted, opened, **FOLLOW)
    which.submit(told(tab.choose), [which, *cells], seen, **quick)
    gr.on([each.input for each in filters], told(tab.show), cells, seen, **quick)
    picture.select(told(tab.click), cells, seen, **quick)
    table.select(told(tab.row), cells, seen, **quick)
    said: list[tuple[Any, Verdict | None]] = [(right, "right"), (wrong, "wrong"), (ignore, "ignore"), (clear, None)]
    for button, verdict in said:
        button.click(told(tab.marker(verdict)), cells, [*seen, marks], **PLAIN)
    complete.input(told(tab.complete), [complete, *cells], [*seen, marks], **PLAIN)
    give.click(told(tab.hand_over), None, [result], **PLAIN)


def _filters() -> list[Any]:
    """The controls that say which cells are listed: the values of Wanted."""
    import gradio as gr

    with gr.Row():
        states = gr.CheckboxGroup(list(STATES), value=list(STATES), label="States", elem_id="states")
        reasons = [ANY, *(reason for reason in REASONS if reason)]
        reason = gr.Dropdown(reasons, value=ANY, label="Reason", elem_id="reason", min_width=140)
        low = gr.Slider(0, 1, 0, step=0.01, label="Calibrated score from", buttons=[], min_width=140)
        high = gr.Slider(0, 1, 1, step=0.01, label="Calibrated score to", buttons=[], min_width=140)
    return [states, reason, low, high]


class _Rounds:
    """What the controls call: each takes and returns plain values, and those of the components it changes."""

    def __init__(self, browser: Browser, paths: RunPaths, pictures: Pictures) -> None:
        self._browser, self._paths, self._pictures = browser, paths, pictures

    def refresh(self, number: int | None, order: Order, contains: str, image: str | None) -> tuple[Any, ...]:
        """The rounds and the images that there are now."""
        import gradio as gr

        rounds = self._browser.rounds()
        number = number if number in rounds else rounds[0] if rounds else None
        images, count = ([], 0) if number is None else self._browser.images(number, order, contains)
        names = [image_id for _, image_id in images]
        image = image if image in names else names[0] if names else None
        return (
            gr.Dropdown(choices=[(f"round {each}", each) for each in rounds], value=number),
            gr.Dropdown(choices=images, value=image, label=_listed(len(images), count)),
            waiting(self._paths),
        )

    def open(self, number: int | None, image: str | None, *wanted: Any) -> tuple[Any, ...]:
        """Show an image of a round."""
        if number is None or image is None:
            return Looked(), None, [], CLICK, False, NO_ROUND if number is None else "No image.", ""
        looked = Looked(self._browser.open(number, image))
        opened = looked.image
        assert opened is not None, "it was opened just now"
        return looked, *self.show(looked, *wanted), opened.marked.complete is not None, opened.note, ""

    def show(self, looked: Looked, *wanted: Any) -> tuple[Any, ...]:
        """The picture, the table and the chosen cell."""
        image = looked.image
        if image is None:
            return None, [], CLICK
        listed = image.listed(_wanted(wanted))
        cell = CLICK if looked.chosen is None else image.sentence(looked.chosen)
        return (
            self._pictures.write(image.view.draw(image.draw(listed, looked.chosen))),
            image.table(listed),
            f"{cell}\n\n{len(listed)} of {len(image.rows)} cells are listed.",
        )

    def click(self, event: Any, looked: Looked, *wanted: Any) -> tuple[Any, ...]:
        """Choose the cell under the pointer."""
        if looked.image is not None:
            looked.chosen = looked.image.at(looked.image.listed(_wanted(wanted)), *event.index)
        return self.show(looked, *wanted)

    def choose(self, number: str, looked: Looked, *wanted: Any) -> tuple[Any, ...]:
        """Choose a cell by its number."""
        looked.chosen = place_of(number, 0 if looked.image is None else len(looked.image.rows))
        return self.show(looked, *wanted)

    def row(self, event: Any, looked: Looked, *wanted: Any) -> tuple[Any, ...]:
        """Choose the cell of a row of the table, however the browser sorted it."""
        if looked.image is not None:
            looked.chosen = int(event.row_value[0]) - 1
        return self.show(looked, *wanted)

    def marker(self, verdict: Verdict | None) -> Any:
        """What a button does that gives this verdict."""

        def mark(looked: Looked, *wanted: Any) -> tuple[Any, ...]:
            if looked.image is not None and looked.chosen is not None:
                marked = self._browser.mark(looked.image, [looked.chosen], verdict)
                looked.image = replace(looked.image, marked=marked)
            return *self.show(looked, *wanted), waiting(self._paths)

        return mark

    def complete(self, is_complete: bool, looked: Looked, *wanted: Any) -> tuple[Any, ...]:
        """Note that the image was seen whole, or not."""
        if looked.image is not None:
            looked.image = replace(looked.image, marked=self._browser.complete(looked.image, is_complete))
        return *self.show(looked, *wanted), waiting(self._paths)

    def hand_over(self) -> str:
        """Make all marks human labels; while another process works on the run they wait."""
        try:
            return words_of(hand_over(self._paths, self._browser.config))
        except RunError as error:
            return f"Nothing was handed over, and no mark is lost. {error}"


def _listed(shown: int, count: int) -> str:
    """What the list of images is called."""
    return f"Image, the first {shown} of {count}" if shown < count else f"Image, one of {count}"


def _wanted(values: Sequence[Any]) -> Wanted:
    states, reason, low, high = values
    return Wanted(tuple(states), reason, float(low), float(high))
