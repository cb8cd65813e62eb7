//! Quotes of this enclave: a report for the machine's quoting enclave, which the host carries there.

use std::io;

use teemate_control::service::{Ask, Reply};
use teemate_evidence::quote::Quote;

/// A quote with this report data, and whether it comes from a simulator and so proves nothing. `ask` asks the host, and waits.
///
/// # Errors
/// Those of `ask`; and a host that returns something else than a quote of this report.
pub fn quote(ask: impl Fn(Ask) -> io::Result<Reply>, report_data: [u8; 64]) -> io::Result<(Vec<u8>, bool)> {
    let bytes = |ask_for: Ask| match ask(ask_for)? {
        Reply::Bytes(bytes) => Ok(bytes),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    };
    let target: [u8; 512] = bytes(Ask::QuoteTarget)?.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let report = teemate_containers::report(Some(&target), &report_data)?;
    let bytes = bytes(Ask::Quote { report: report.to_vec() })?;
    // The host could return any quote; a client would refuse it, and the operator would wonder why.
    let parsed = Quote::parse(&bytes).map_err(|error| io::Error::other(format!("the host returned no quote: {error}")))?;
    if parsed.body.report_data() != report_data {
        return Err(io::Error::other("the host returned a quote of another report"));
    }
    let simulated = parsed.is_marked_as_simulation();
    Ok((bytes, simulated))
}
