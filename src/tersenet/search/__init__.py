"""Ask, tell, and the durable store of trials."""

from tersenet.search.loop import quality, run_method
from tersenet.search.searcher import PROBE, Method, Reward, Searcher, candidates
from tersenet.search.study import Study, Trial, kept_fact

__all__ = [
    "PROBE",
    "Method",
    "Reward",
    "Searcher",
    "Study",
    "Trial",
    "candidates",
    "kept_fact",
    "quality",
    "run_method",
]
