"""A whole estate without virtual machines: for tests under faults, for scale, and to try policies.

Sources and replicas are files with real syncs between them; what guests do is simulated. Nothing here can
prove that a guest boots: its verdicts are worth what the simulated guest is made to say.
"""
