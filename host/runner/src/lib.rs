//! What runs in a container's process: enters the enclave and serves its calls.
