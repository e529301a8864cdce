"""The batch job: plan to shards."""
