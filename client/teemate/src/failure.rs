//! Why a command failed, and the exit code that says so.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::output::harmless;

/// Exit code when something failed.
pub const FAILED: u8 = 1;
/// Exit code for a command line that makes no sense; clap's own.
pub const USAGE: u8 = 2;
/// Exit code when no node answers.
pub const UNREACHABLE: u8 = 3;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    kind: &'static str,
    message: String,
}

impl Failure {
    /// Something did not work.
    pub fn new(message: impl ToString) -> Self {
        Failure { code: FAILED, kind: "failed", message: message.to_string() }
    }

    /// The command line asks for something that can't be.
    pub fn usage(message: impl ToString) -> Self {
        Failure { code: USAGE, kind: "usage", message: message.to_string() }
    }

    /// For the process's end.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// For `--json`.
    pub fn json(&self) -> Value {
        json!({ "error": { "kind": self.kind, "message": self.message } })
    }
}

impl From<teemate_client::Error> for Failure {
    fn from(error: teemate_client::Error) -> Self {
        use teemate_client::Error::{Failed, Lost, Nonsense, Unreachable};
        let (code, kind) = match &error {
            Unreachable { .. } => (UNREACHABLE, "unreachable"),
            Lost { .. } => (UNREACHABLE, "lost"),
            Nonsense { .. } => (FAILED, "protocol"),
            Failed(failure) => (FAILED, kind_name(failure.kind)),
        };
        Failure { code, kind, message: error.to_string() }
    }
}

impl From<teemate_client::profile::Error> for Failure {
    fn from(error: teemate_client::profile::Error) -> Self {
        Failure { code: FAILED, kind: "profile", message: error.to_string() }
    }
}

impl From<teemate_client::enclave::Error> for Failure {
    fn from(error: teemate_client::enclave::Error) -> Self {
        use teemate_client::enclave::Error;
        let (code, kind) = match error {
            Error::Session(error) => return error.into(),
            Error::Refused(refusal) => return refusal.into(),
            Error::Memory(_) => (FAILED, "store"),
            Error::Answered { .. } => (FAILED, "answered"),
            _ => (FAILED, "enclave"),
        };
        Failure { code, kind, message: harmless(&error.to_string()) }
    }
}

impl From<teemate_attestation::Refusal> for Failure {
    fn from(refusal: teemate_attestation::Refusal) -> Self {
        Failure { code: FAILED, kind: "refused", message: harmless(&refusal.to_string()) }
    }
}

impl From<teemate_evidence::Error> for Failure {
    fn from(error: teemate_evidence::Error) -> Self {
        teemate_attestation::Refusal::from(error).into()
    }
}

impl From<teemate_attestation::policy::Error> for Failure {
    fn from(error: teemate_attestation::policy::Error) -> Self {
        Failure { code: FAILED, kind: "policy", message: harmless(&error.to_string()) }
    }
}

impl From<teemate_attestation::memory::Error> for Failure {
    fn from(error: teemate_attestation::memory::Error) -> Self {
        Failure { code: FAILED, kind: "store", message: harmless(&error.to_string()) }
    }
}

impl From<teemate_attestation::tls::Error> for Failure {
    fn from(error: teemate_attestation::tls::Error) -> Self {
        use teemate_attestation::tls::Error::{Handshake, Refused, Unreachable};
        let (code, kind) = match &error {
            Unreachable { .. } | Handshake { .. } => (UNREACHABLE, "unreachable"),
            Refused { .. } => (FAILED, "refused"),
        };
        Failure { code, kind, message: harmless(&error.to_string()) }
    }
}

impl From<teemate_attestation::session::Error> for Failure {
    fn from(error: teemate_attestation::session::Error) -> Self {
        use teemate_attestation::session::Error::{Answer, Connect, Contradiction, Http, Nonsense, Refused};
        let kind = match error {
            Connect(error) => return error.into(),
            Refused(_) | Contradiction { .. } => "refused",
            Answer { .. } => "answered",
            Http(_) | Nonsense { .. } => "protocol",
        };
        Failure { code: FAILED, kind, message: harmless(&error.to_string()) }
    }
}

impl From<teemate_attestation::proxy::Error> for Failure {
    fn from(error: teemate_attestation::proxy::Error) -> Self {
        match error {
            teemate_attestation::proxy::Error::Endpoint(error) => error.into(),
            teemate_attestation::proxy::Error::Refused(refusal) => refusal.into(),
            other => Failure::new(harmless(&other.to_string())),
        }
    }
}

impl From<teemate_witness_server::Error> for Failure {
    fn from(error: teemate_witness_server::Error) -> Self {
        Failure { code: FAILED, kind: "witness", message: harmless(&error.to_string()) }
    }
}

impl From<teemate_attestation::database::Error> for Failure {
    fn from(error: teemate_attestation::database::Error) -> Self {
        Failure { code: FAILED, kind: "database", message: harmless(&error.to_string()) }
    }
}

impl From<teemate_client::node::StartError> for Failure {
    fn from(error: teemate_client::node::StartError) -> Self {
        Failure { code: FAILED, kind: "start", message: error.to_string() }
    }
}

impl From<teemate_client::deployment::Error> for Failure {
    fn from(error: teemate_client::deployment::Error) -> Self {
        match error {
            teemate_client::deployment::Error::Value { .. } => Failure::usage(error),
            error => Failure::new(error),
        }
    }
}

impl From<teemate_image::Error> for Failure {
    fn from(error: teemate_image::Error) -> Self {
        Failure { code: FAILED, kind: "image", message: error.to_string() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::new(error)
    }
}

/// The name of a failure's kind in machine output, as the protocol has it.
pub const fn kind_name(kind: teemate_control::function::FailureKind) -> &'static str {
    use teemate_control::function::FailureKind::{Application, Busy, ContainerLost, Denied, Integrity, Internal, Invalid, Limit};
    match kind {
        Application => "application",
        Limit => "limit",
        Denied => "denied",
        Integrity => "integrity",
        ContainerLost => "container_lost",
        Invalid => "invalid",
        Busy => "busy",
        Internal => "internal",
    }
}
