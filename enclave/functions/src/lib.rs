//! The function service: WebAssembly and JavaScript functions of many owners in one enclave.
