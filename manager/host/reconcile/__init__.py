"""The reconciler: desired state, recovery, drain."""
