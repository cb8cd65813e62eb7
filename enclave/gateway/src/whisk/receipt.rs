//! What is told of each call that ended, so that a receipt can be made of it.

use http::{HeaderMap, HeaderName};
use teemate_control::function::{Limits, Outcome, Reuse};
use teemate_evidence::receipt;

use super::activation::{Activation, Status};

/// Name of the header by which a caller asks for digests in the receipt: `input`, `output`, or both with a comma between. Not without being
/// asked: whoever sees a receipt could guess small parameters and compare.
pub const HEADER: HeaderName = HeaderName::from_static("x-teemate-receipt");

/// Which digests a caller wants in the receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of the parameters as the function read them.
    pub input: bool,
    /// Of the result as it is returned.
    pub output: bool,
}

impl Wanted {
    /// What a request asks for.
    pub fn of(headers: &HeaderMap) -> Self {
        let words: Vec<&str> =
            headers.get_all(HEADER).iter().filter_map(|value| value.to_str().ok()).flat_map(|it| it.split(',')).collect();
        let has = |wanted: &str| words.iter().any(|word| word.trim().eq_ignore_ascii_case(wanted));
        Wanted { input: has("input"), output: has("output") }
    }
}

/// A call that ended.
pub struct Finished<'a> {
    /// Its record. The namespace is the caller's.
    pub activation: &'a Activation,
    /// What the service says of it.
    pub outcome: &'a Outcome,
    /// The action: `name`, `package/name`, or for another owner's `/namespace/package/name`.
    pub action: String,
    /// SHA-256 of the code as its owner gave it: the source, or what the base64 stands for.
    pub code: [u8; 32],
    /// Its limits.
    pub limits: Limits,
    /// What the call might find of earlier ones.
    pub reuse: Reuse,
    /// SHA-256 of the parameters, if the caller wants it.
    pub input: Option<[u8; 32]>,
    /// SHA-256 of the result, if the caller wants it.
    pub output: Option<[u8; 32]>,
}

/// Is told of each call that ended.
pub trait Witness: Send + Sync + 'static {
    /// A call ended. Must not block.
    fn on_finished(&self, call: &Finished<'_>);
}

/// Does nothing with it.
impl Witness for () {
    fn on_finished(&self, _: &Finished<'_>) {}
}

impl Finished<'_> {
    /// The receipt of it.
    pub fn receipt(&self) -> receipt::Receipt {
        let Finished { activation, outcome, limits, .. } = self;
        receipt::Receipt {
            version: receipt::VERSION,
            owner: activation.namespace.clone(),
            action: self.action.clone(),
            action_version: activation.version.to_string(),
            code_sha256: self.code,
            limits: receipt::Limits {
                timeout_ms: limits.timeout_ms,
                memory: limits.memory,
                fuel: limits.fuel,
                log: limits.log,
                result: limits.result,
            },
            container: outcome.container,
            activation: activation.id.clone(),
            reuse: match self.reuse {
                Reuse::Fresh => receipt::Reuse::Fresh,
                Reuse::Rewind => receipt::Reuse::Rewind,
                Reuse::Keep => receipt::Reuse::Keep,
            },
            status: match activation.response.status {
                Status::Success => receipt::Status::Success,
                Status::ApplicationError => receipt::Status::ApplicationError,
                Status::DeveloperError => receipt::Status::DeveloperError,
                Status::WhiskError => receipt::Status::InternalError,
            },
            usage: receipt::Usage {
                fuel: outcome.usage.fuel,
                memory_peak: outcome.usage.memory_peak,
                untrusted_execution_us: outcome.usage.execution_us,
            },
            input_sha256: self.input,
            output_sha256: self.output,
            untrusted_start_ms: activation.start,
            untrusted_end_ms: activation.end.unwrap_or(activation.start),
        }
    }
}

impl Witness for crate::receipts::Receipts {
    fn on_finished(&self, call: &Finished<'_>) {
        if let Err(error) = self.issue(&call.receipt()) {
            eprintln!("teemate-gateway: a call has no receipt: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_for_those_who_ask() {
        let of = |value: &'static str| Wanted::of(&HeaderMap::from_iter([(HEADER, http::HeaderValue::from_static(value))]));
        assert_eq!(Wanted::of(&HeaderMap::new()), Wanted::default());
        assert_eq!(of("Input, output"), Wanted { input: true, output: true });
        assert_eq!(of("output,x"), Wanted { input: false, output: true });
    }
}
