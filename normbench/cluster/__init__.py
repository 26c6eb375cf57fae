"""How does an experiment run on a Ray cluster? The only room that imports ray, and none imports it without --cluster.

The driver plans, records and reports as it does on one machine. On each device of the cluster a `host.Host` owns the
same training process as a local worker; `executor.ClusterExecutor` gives them runs and brings back what they send.
"""
