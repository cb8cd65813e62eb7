//! The node: enclaves, TCS leases, containers, metrics.
