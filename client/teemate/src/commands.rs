//! One module a command.

mod action;
mod activation;
mod attest;
mod bench;
mod completion;
mod database;
mod doctor;
mod function;
mod image;
mod login;
mod node;
mod observe;
mod owner;
mod policy;
mod proxy;
mod remote;
mod serve;
mod verify;
mod witness;

use std::process::ExitCode;
use std::time::Duration;

use teemate_client::Connection;

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;
use crate::output::Output;

/// How long the node may take for what it has at hand. Deployments and calls have their own times.
const PATIENCE: Duration = Duration::from_secs(30);

/// Carries out a command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<ExitCode, Failure> {
    match &arguments.command {
        Command::Node(command) => node::run(command, &arguments.socket(), output),
        Command::Function(command) => match &arguments.profile {
            Some(profile) => remote::run(command, profile, output),
            None => function::run(command, &arguments.socket(), output),
        },
        Command::Db(command) => database::run(command, &arguments.socket(), output),
        Command::Witness(command) => witness::run(command, output),
        Command::Login(login) => login::run(login, output),
        Command::Activation(command) => activation::run(command, arguments.profile.as_deref(), output),
        Command::Action(action) => action::run(action, arguments.profile.as_deref()),
        Command::Owner(command) => owner::run(command, &arguments.socket(), output),
        Command::Attest(attest) => attest::run(attest, arguments, output),
        Command::Verify(verify) => verify::run(verify, output),
        Command::Policy(command) => policy::run(command, output),
        Command::Proxy(proxy) => proxy::run(proxy, output),
        Command::Serve(serve) => serve::run(serve, output),
        Command::Ps => observe::ps(&arguments.socket(), output),
        Command::Metrics => observe::metrics(&arguments.socket(), output),
        Command::Kill { container } => observe::kill(*container, &arguments.socket(), output),
        Command::Image(command) => image::run(command, output),
        Command::Doctor => doctor::run(output),
        Command::Bench { arguments: rest } => bench::run(rest, &arguments.socket()),
        Command::Completion { shell } => completion::run(*shell),
    }
}

/// A connection for requests that are answered at once.
fn connect(socket: &std::path::Path) -> Result<Connection, Failure> {
    let mut connection = Connection::open(socket)?;
    connection.set_timeout(Some(PATIENCE))?;
    Ok(connection)
}
