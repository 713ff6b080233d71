"""What decides: metrics, calibration, promotion, leaderboard, verdict."""
