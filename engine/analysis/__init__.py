"""Whether a shared subspace is real: what is the seed's, what generalises, who dominates."""
