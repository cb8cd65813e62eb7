//! Container processes: namespaces, cgroups, zygote, seccomp.
