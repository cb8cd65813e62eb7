//! `teemate verify`: evidence in a file, without any connection.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use teemate_attestation::document::{Findings, Freshness};
use teemate_attestation::{Document, describe, now};
use teemate_evidence::Receipt;
use teemate_evidence::api::{MAX_ANSWER, parse_nonce};
use teemate_evidence::encoding::hex;
use teemate_evidence::receipt::{Reuse, Status};
use teemate_evidence::time::{self, Civil};

use super::policy;
use crate::arguments::attestation::Verify;
use crate::failure::Failure;
use crate::output::{Output, bytes, harmless};

/// Largest parameters or result that are hashed.
const MAX_DATA: u64 = 64 << 20;

/// Carries out `verify`.
pub fn run(arguments: &Verify, output: &Output) -> Result<ExitCode, Failure> {
    let nonce = arguments.nonce.as_deref().map(|text| parse_nonce(text).ok_or("a nonce is 32 bytes, in hexadecimal or base64url"));
    let nonce = nonce.transpose().map_err(Failure::usage)?;
    let at = arguments.at.as_deref().map(|text| time::parse(text).ok_or("a time is written as 2026-11-20T09:30:00Z"));
    let at = at.transpose().map_err(Failure::usage)?;
    let connector = policy::connector(&arguments.judge, None)?;
    let document = Document::parse(&read(&arguments.file, MAX_ANSWER as u64)?)?;
    let found = document.verify(connector.collateral(), connector.policy(), nonce.as_ref(), at.unwrap_or_else(now))?;
    let input = compare(arguments.input.as_deref(), found.receipt.as_ref(), "parameters", Receipt::has_input)?;
    let result = compare(arguments.output.as_deref(), found.receipt.as_ref(), "result", Receipt::has_output)?;
    let description = describe(&found.verified);
    let answer = json!({
        "kind": document.kind(),
        "accepted": true,
        "quote": description,
        "freshness": found.freshness,
        "binding": found.binding,
        "receipt": found.receipt,
        "input_matches": input,
        "output_matches": result,
    });
    output.result(&answer, || {
        let mut text = format!("this {} holds: the policy accepts the enclave\n\n{description}\n", document.kind());
        write(&mut text, &found);
        for (name, compared) in [("input", input), ("output", result)] {
            if compared.is_some() {
                text += &format!("{name:<12}is what the receipt says\n");
            }
        }
        harmless(&text)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a file is what the receipt is about. `None`: no file was given.
fn compare(
    file: Option<&Path>,
    receipt: Option<&Receipt>,
    what: &str,
    fits: fn(&Receipt, &[u8]) -> Option<bool>,
) -> Result<Option<bool>, Failure> {
    let Some(path) = file else { return Ok(None) };
    let receipt = receipt.ok_or_else(|| Failure::usage("only a receipt can be compared with parameters or a result"))?;
    match fits(receipt, &read(path, MAX_DATA)?) {
        Some(true) => Ok(Some(true)),
        Some(false) => Err(Failure::new(format!("{} is not the {what} that the receipt is about", path.display()))),
        None => Err(Failure::new(format!("the receipt has no digest of the {what}: the caller did not ask for it"))),
    }
}

fn write(text: &mut String, found: &Findings) {
    let mut row = |name: &str, value: String| text.push_str(&format!("{name:<12}{value}\n"));
    row(
        "freshness",
        match found.freshness {
            Freshness::AnswersNonce => "the quote answers the nonce that was given".to_owned(),
            Freshness::Unknown => "not known: a quote in a file may be of any age".to_owned(),
        },
    );
    if let Some(binding) = &found.binding {
        row("binds", format!("TLS key {}", hex(&binding.tls_key)));
        row("", format!("receipt key {}", binding.receipt_key.thumbprint()));
    }
    let Some(receipt) = &found.receipt else { return };
    row("ran", format!("{}/{} version {}", receipt.owner, receipt.action, receipt.action_version));
    row("code", format!("SHA-256 {}", hex(&receipt.code_sha256)));
    row("activation", receipt.activation.clone());
    row(
        "container",
        format!(
            "{}, {}",
            receipt.container,
            match receipt.reuse {
                Reuse::Fresh => "new for this call",
                Reuse::Rewind => "rewound to its state before any call",
                Reuse::Keep => "as earlier calls of the same function left it",
            }
        ),
    );
    row(
        "ended",
        match receipt.status {
            Status::Success => "with a result",
            Status::ApplicationError => "with an error that the function gave",
            Status::DeveloperError => "by the function's fault",
            Status::InternalError => "by the service's fault",
        }
        .to_owned(),
    );
    let limits = &receipt.limits;
    let fuel = limits.fuel.map_or_else(|| "no limit of fuel".to_owned(), |fuel| format!("{fuel} fuel"));
    row("limits", format!("{} ms, {} of memory, {fuel}", limits.timeout_ms, bytes(limits.memory)));
    let usage = &receipt.usage;
    row(
        "used",
        format!("{} us by the host's clock, {} of memory, {} fuel", usage.untrusted_execution_us, bytes(usage.memory_peak), usage.fuel),
    );
    let digest = |digest: &Option<[u8; 32]>| digest.map_or_else(|| "not recorded".to_owned(), |digest| format!("SHA-256 {}", hex(&digest)));
    row("parameters", digest(&receipt.input_sha256));
    row("result", digest(&receipt.output_sha256));
    let clock = |ms: u64| Civil::from_unix(ms / 1000);
    row("time", format!("{} to {}, by the HOST'S clock", clock(receipt.untrusted_start_ms), clock(receipt.untrusted_end_ms)));
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit + 1).read_to_end(&mut content)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut content))
    };
    read.map_err(|error| Failure::new(format!("{} can't be read: {error}", path.display())))?;
    if content.len() as u64 > limit {
        return Err(Failure::new(format!("{} has more than the {} that are read", path.display(), bytes(limit))));
    }
    Ok(content)
}
