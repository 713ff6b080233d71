"""What the parts of a network put out is recorded as it is, and no hook is left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cellsemi.models.explanation import Explanation
from cellsemi.models.inference.activations import Watched, recorded
from cellsemi.rounds.cells.instances import Instances


class Three(nn.Module):
    """Parts whose outputs are known: twice the input, two levels of it, and one row for each of four boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.levels, self.rows = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.levels({"fine": x, "coarse": x[..., ::2, ::2]})
        self.rows(torch.tensor([[1.0, -1.0], [3.0, -3.0]]))
        twice: Tensor = self.twice(2 * x)
        return twice


def test_means_shares_and_maps_are_those_of_the_outputs() -> None:
    net, x = Three(), torch.randn(1, 5, 8, 6, generator=torch.Generator().manual_seed(0))
    parts = [
        Watched("twice", net.twice, "a"),
        Watched("levels", net.levels, "a"),
        Watched("rows", net.rows, None),
        Watched("gate", net.twice, "b", read=lambda module, inputs: inputs[0][0, 0].abs() * 0 + 0.5, note="a gate"),
    ]
    with recorded(parts) as recorder:
        net(x)
    net(x)  # not recorded
    assert not any(part.module._forward_hooks for part in parts)
    magnitude = x.abs().double().numpy()
    levels = np.concatenate([magnitude.ravel(), magnitude[..., ::2, ::2].ravel()]).mean()
    means = {"levels": levels, "rows": 2.0, "twice": 2 * magnitude.mean()}
    assert recorder.activations() == pytest.approx(means, rel=1e-6)
    shares = Explanation(Instances.empty(1, 1), activations=recorder.activations()).shares()
    assert shares["rows"] == pytest.approx(2 / sum(means.values())) and sum(shares.values()) == pytest.approx(1)
    seen = recorder.seen((0, 0, 12, 12), (0.75, 1.0), 1)
    assert [each.name for each in seen.maps] == ["levels fine", "levels coarse", "twice", "gate"]
    by_name = {each.name: each for each in seen.maps}
    np.testing.assert_allclose(by_name["twice"].values, 2 * magnitude[0].mean(0)[:6], rtol=1e-5)  # without the margin
    assert by_name["levels coarse"].values.shape == (3, 3) and by_name["gate"].note == "a gate"
    assert by_name["twice"].high == pytest.approx(by_name["twice"].values.max()) and seen.notes == ()
    assert "3 windows" in recorder.seen((0, 0, 4, 4), (1, 1), 3).notes[0]


def test_channels_may_be_last_and_an_error_leaves_no_hook() -> None:
    part = Watched("block", nn.Identity(), "a", channels_last=True)
    x = torch.randn(1, 4, 3, 7, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ZeroDivisionError), recorded([part]) as recorder:
        part.module(x)
        raise ZeroDivisionError
    assert not part.module._forward_hooks
    np.testing.assert_allclose(recorder.maps[0][2], x[0].abs().mean(-1).numpy(), rtol=1e-6)
