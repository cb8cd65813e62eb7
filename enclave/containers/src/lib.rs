//! What a payload can ask of the enclave it runs in, with a stand-in for native runs.
