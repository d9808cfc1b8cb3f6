"""Sweeps, and the engines that run them: here, on a cluster, in a cloud."""
