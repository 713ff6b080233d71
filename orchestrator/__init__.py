"""The campaign over rounds, the engine that runs its stages, and what a person sees of it."""
