"""Scoring: ranking, re-ranking, reports."""
