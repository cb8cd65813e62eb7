//! `teemate attest`: a fresh quote of an enclave, in words.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use teemate_attestation::memory::{Memory, Presented, Seen, Whose};
use teemate_attestation::session::{self, Fresh};
use teemate_attestation::{Endpoint, Session, describe, now};
use teemate_client::profile::Profile;
use teemate_control::node::{Request, Response};
use teemate_evidence::api::{AttestResponse, Info, parse_nonce};
use teemate_evidence::encoding::hex;

use super::{connect, policy};
use crate::arguments::Arguments;
use crate::arguments::attestation::Attest;
use crate::failure::Failure;
use crate::output::{Output, harmless};

/// Carries out `attest`.
pub fn run(arguments: &Attest, all: &Arguments, output: &Output) -> Result<ExitCode, Failure> {
    let profile = all.profile.as_deref().map(Profile::load).transpose()?;
    let endpoint = endpoint(arguments, all, profile.as_ref())?;
    let nonce = match &arguments.nonce {
        Some(text) => parse_nonce(text).ok_or_else(|| Failure::usage("a nonce is 32 bytes, in hexadecimal or base64url"))?,
        None => session::nonce().map_err(|error| Failure::new(format!("no random nonce can be drawn: {error}")))?,
    };
    let connector = policy::connector(&arguments.judge, profile.as_ref().map(|profile| profile.policy.as_path()))?;
    let progress = output.progress(format!("verifying {endpoint}"));
    // Opened before the enclave is asked.
    let memory = Memory::default_path().map(|path| Memory::open(&path)).transpose()?;
    let mut session = Session::open(&connector, &endpoint)?;
    let fresh = session.attest(nonce, now())?;
    let info = session.info()?;
    progress.finish_and_clear();
    if info.receipt_key != fresh.binding.receipt_key {
        return Err(Failure::new("the enclave names another receipt key than its quote binds"));
    }
    let owner = profile.as_ref().map(|profile| profile.namespace.as_str());
    let before = match memory {
        Some(memory) => remember(memory, &endpoint, owner, &info, arguments.accept_store)?,
        None => None,
    };
    if let Some(path) = &arguments.save {
        save(path, &fresh)?;
    }
    let description = describe(&fresh.verified);
    let document = json!({
        "endpoint": endpoint.to_string(),
        "accepted": true,
        "quote": description,
        "fresh": true,
        "nonce": hex(&nonce),
        "tls_key": hex(&fresh.binding.tls_key),
        "receipt_key": fresh.binding.receipt_key,
        "version": info.version,
        "store": info.store,
        "epoch": info.epoch,
        "last_epoch": before.as_ref().map(|seen| seen.epoch),
    });
    output.result(&document, || {
        let mut text = format!("{endpoint} is an enclave that the policy accepts\n\n{description}\n");
        let mut row = |name: &str, value: String| text.push_str(&format!("{name:<12}{value}\n"));
        row("freshness", "the quote answers the nonce of this request: it was made just now".to_owned());
        row("connection", format!("ends in this enclave: the quote binds its TLS key {}", hex(&fresh.binding.tls_key)));
        row("receipts", format!("are signed with the key {}", fresh.binding.receipt_key.thumbprint()));
        row("software", format!("TeeMate {}", info.version));
        row(
            "store",
            match before {
                Some(seen) => format!("epoch {}, last seen at {}: no old copy", info.epoch, seen.epoch),
                None => format!("epoch {}, not seen before", info.epoch),
            },
        );
        harmless(&text)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn endpoint(arguments: &Attest, all: &Arguments, profile: Option<&Profile>) -> Result<Endpoint, Failure> {
    let parse = |text: &str| text.parse::<Endpoint>().map_err(|why| Failure::usage(format!("{text:?} is no endpoint: {why}")));
    match (&arguments.endpoint, arguments.node, profile) {
        (Some(text), _, _) => parse(text),
        (None, true, _) => {
            let mut connection = connect(&all.socket())?;
            let status = match connection.ask(&Request::Status)? {
                Response::Status(status) => status,
                other => return Err(connection.unexpected(&other).into()),
            };
            let text =
                status.endpoint.ok_or_else(|| Failure::new("this node has no enclave that answers by TLS; start it with --listen"))?;
            // The node's word is only where to ask; what answers there must satisfy the policy.
            text.parse().map_err(|why| Failure::new(format!("the node names an endpoint that is none ({}): {why}", harmless(&text))))
        }
        (None, false, Some(profile)) => parse(&profile.endpoint),
        (None, false, None) => Err(Failure::usage("say which enclave: its URL, or --node, or --profile")),
    }
}

/// Compares the store with what was seen before; gives that.
fn remember(mut memory: Memory, endpoint: &Endpoint, owner: Option<&str>, info: &Info, accept: bool) -> Result<Option<Seen>, Failure> {
    let node = endpoint.to_string();
    let whose = Whose { node: &node, mrsigner: info.mrsigner, owner };
    let before = memory.last(&whose).cloned();
    if accept {
        memory.accept(&whose, Presented::from(info).behind())?;
        return Ok(None);
    }
    memory.observe_one_of(&whose, Presented::from(info))?;
    Ok(before)
}

fn save(path: &Path, fresh: &Fresh) -> Result<(), Failure> {
    let answer = AttestResponse { quote: fresh.quote.clone(), binding: fresh.binding.clone(), collateral: fresh.collateral.clone() };
    let text = serde_json::to_vec_pretty(&answer).map_err(Failure::new)?;
    std::fs::write(path, text).map_err(|error| Failure::new(format!("{} can't be written: {error}", path.display())))
}
