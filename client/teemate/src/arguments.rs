//! The command line's grammar.

pub mod attestation;
pub mod database;
pub mod witness;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use teemate_control::function::{Kind, Reuse};
use teemate_control::node::Sharing;

use crate::value;

const EXIT_CODES: &str = "\
Exit codes:
  0  it worked
  1  it failed; for `function invoke` also: the function failed
  2  the command line makes no sense
  3  no node answers";

/// Confidential containers that share one enclave.
#[derive(Debug, Parser)]
#[command(name = "teemate", version, after_help = EXIT_CODES, propagate_version = true, max_term_width = 110)]
pub struct Arguments {
    /// Print one JSON document on stdout instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Socket of the node [default: $XDG_RUNTIME_DIR/teemate/node.sock, else /run/teemate/node.sock].
    #[arg(long, global = true, env = teemate_client::socket::VARIABLE, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// Act as an owner: with the profile that `teemate login` made, over TLS that ends in the enclave.
    #[arg(long, global = true, env = teemate_client::profile::VARIABLE, value_name = "NAME")]
    pub profile: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Where the node listens.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(teemate_client::socket::default_path)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start, stop and look at the node.
    #[command(subcommand)]
    Node(Node),
    /// Deploy, call and look at functions.
    #[command(subcommand)]
    Function(Function),
    /// Start a confidential database, and own it.
    #[command(subcommand)]
    Db(database::Database),
    /// Be the witness of databases elsewhere: remember how far they have come, so that their hosts can't put back an old state.
    #[command(subcommand)]
    Witness(witness::Witness),
    /// Verify an enclave and become, or be, an owner there; kept as a profile.
    Login(Login),
    /// What an owner's calls came to.
    #[command(subcommand)]
    Activation(Activation),
    /// Be a container that OpenWhisk's invoker starts: serve its action protocol (/init, /run), and run the action in the shared enclave.
    Action(Action),
    /// Invite the owners of namespaces, and look at them (the node's administrator).
    #[command(subcommand)]
    Owner(Owner),
    /// Verify that an enclave is one that the policy accepts, and tell in words what its quote says.
    Attest(attestation::Attest),
    /// Verify a quote, certificate, attestation answer or receipt in a file, without any connection.
    Verify(attestation::Verify),
    /// What is accepted as an enclave.
    #[command(subcommand)]
    Policy(attestation::Policy),
    /// Give plain local HTTP to clients that can't verify: an enclave is verified for them, connection by connection.
    Proxy(attestation::Proxy),
    /// Serve a web action on $PORT, as Knative wants a container: plain HTTP in the pod, attested TLS into the enclave.
    Serve(attestation::Serve),
    /// Enclaves, containers, TCSs and pages.
    Ps,
    /// Counters of the node, as Prometheus reads them.
    Metrics,
    /// Kill a container, as an administrator would.
    Kill {
        /// Its id, as `teemate ps` shows it.
        container: u64,
    },
    /// Build, sign, measure and verify enclave images.
    #[command(subcommand)]
    Image(Image),
    /// Tell what this machine has of what a node needs, and what to do about the rest.
    Doctor,
    /// Measure the paper's figures; `teemate bench --help` shows the options of teemate-bench.
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments for teemate-bench.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Print a completion script for a shell.
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// `teemate node`.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Start a node and wait until it answers.
    Start(NodeStart),
    /// Finish the calls under way, take everything down, exit.
    Stop {
        /// How long that may take.
        #[arg(long, default_value = "60s", value_parser = value::milliseconds, value_name = "TIME")]
        timeout: u64,
    },
    /// Tell whether a node runs, and what it is.
    Status,
    /// Put the shim where a machine's containerd looks for it: what an init container of the node does.
    InstallShim {
        /// A directory of containerd's PATH.
        #[arg(value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
    /// Replace the shared enclave by one of another image of the same signer, without losing a call.
    Upgrade {
        /// The image, on the node's machine.
        #[arg(value_hint = ValueHint::FilePath)]
        image: PathBuf,
    },
}

/// How the code lies in an image.
#[derive(Debug, Args)]
pub struct Form {
    /// Make a .wasm file a layer by itself (`application/wasm`), as registries of WebAssembly have it. containerd 1.7 and newer take it.
    #[arg(long)]
    pub wasm_layer: bool,
    /// Encrypt the code with the key in this file, 32 bytes: the enclave alone gets it, from your key broker. Results and logs are still the host's
    /// to read.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires_all = ["key_broker", "key_broker_ca", "key_resource"])]
    pub encrypt_key: Option<PathBuf>,
    /// The key broker: `https://HOST[:PORT][/PATH]`.
    #[arg(long, value_name = "URL", requires = "encrypt_key")]
    pub key_broker: Option<String>,
    /// Certificates to one of which the broker's must chain.
    #[arg(long, value_name = "PEM", value_hint = ValueHint::FilePath, requires = "encrypt_key")]
    pub key_broker_ca: Option<PathBuf>,
    /// Name of the key in the broker: `repository/type/tag`.
    #[arg(long, value_name = "NAME", requires = "encrypt_key")]
    pub key_resource: Option<String>,
}

/// `teemate node start`.
#[derive(Debug, Args)]
pub struct NodeStart {
    /// Stay with the node until it ends; its log goes to stderr.
    #[arg(long)]
    pub foreground: bool,
    /// Image of the enclave [default: functions.teemate beside this program].
    #[arg(long, env = "TEEMATE_IMAGE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Option<PathBuf>,
    /// Where the node keeps functions and its log.
    #[arg(long, env = "TEEMATE_STATE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state: Option<PathBuf>,
    /// How calls and enclaves relate.
    #[arg(long, default_value = "shared")]
    pub sharing: SharingName,
    /// Where the enclave answers its clients by attested TLS: `ADDRESS:PORT`, or `none` [default: 127.0.0.1:8443].
    #[arg(long, env = "TEEMATE_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// How long the start may take.
    #[arg(long, default_value = "120s", value_parser = value::milliseconds, value_name = "TIME")]
    pub timeout: u64,
    /// Further arguments for teemate-node, after `--`.
    #[arg(last = true)]
    pub arguments: Vec<OsString>,
}

/// `teemate login`.
#[derive(Debug, Args)]
pub struct Login {
    /// `https://HOST:PORT` of the enclave.
    pub endpoint: String,
    /// Token of the node's administrator; works once.
    #[arg(long, value_name = "TOKEN", conflicts_with = "auth")]
    pub claim: Option<String>,
    /// Key of an owner, `UUID:KEY`.
    #[arg(long, value_name = "UUID:KEY", env = "TEEMATE_AUTH", hide_env_values = true)]
    pub auth: Option<String>,
    /// What the enclave's quote must satisfy.
    #[command(flatten)]
    pub policy: attestation::PolicyFile,
    /// Name of the profile.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Replace a profile of that name.
    #[arg(long)]
    pub replace: bool,
}

/// `teemate action`.
#[derive(Debug, Args)]
pub struct Action {
    /// Address to listen on. What comes there is not encrypted: an invoker reaches its containers by a network of its own.
    #[arg(long, default_value = "0.0.0.0")]
    pub address: std::net::IpAddr,
    /// Port to listen on; 0: any, and it is written to stdout.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Wall-clock time of a call: the invoker's own limit comes first.
    #[arg(long, default_value = "300s", value_parser = value::milliseconds, value_name = "TIME")]
    pub timeout: u64,
    /// Linear memory of a call.
    #[arg(long, default_value = "256M", value_parser = value::size, value_name = "SIZE")]
    pub memory: u64,
}

/// `teemate activation`.
#[derive(Debug, Subcommand)]
pub enum Activation {
    /// The last ones, newest first.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 30)]
        limit: usize,
        /// Only of this function.
        #[arg(long)]
        name: Option<String>,
    },
    /// One record.
    Get {
        /// Its id.
        id: String,
    },
    /// Its result.
    Result {
        /// Its id.
        id: String,
    },
    /// What it wrote.
    Logs {
        /// Its id.
        id: String,
    },
    /// What the enclave signed about it; `teemate verify` checks it without a connection.
    Receipt {
        /// Its id.
        id: String,
        /// Where it goes [default: stdout].
        #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
}

/// `teemate owner`.
#[derive(Debug, Subcommand)]
pub enum Owner {
    /// Make a token with which somebody becomes the owner of a new namespace. It works once; the key that it gives is made in the
    /// enclave and is never shown to the node.
    Invite {
        /// Name of the namespace.
        namespace: String,
        /// Calls that may begin in a minute [default: 60, as OpenWhisk's].
        #[arg(long, value_name = "CALLS")]
        per_minute: Option<u32>,
        /// Calls at one time [default: 30, as OpenWhisk's].
        #[arg(long, value_name = "CALLS")]
        concurrent: Option<u32>,
    },
    /// All owners.
    List,
    /// Forget an owner, with its functions and everything else that it has.
    Remove {
        /// Its namespace.
        namespace: String,
    },
}

/// `teemate function`.
#[derive(Debug, Subcommand)]
pub enum Function {
    /// Deploy a function, or replace it.
    Deploy(Box<Deploy>),
    /// Call a function in a fresh container; prints its result.
    Invoke(Invoke),
    /// All functions.
    List,
    /// One function.
    Show {
        /// Name.
        name: String,
    },
    /// Forget a function.
    Delete {
        /// Name.
        name: String,
    },
    /// What the last calls of a function wrote.
    Logs {
        /// Name.
        name: String,
        /// At most so many calls.
        #[arg(long, default_value_t = 10)]
        last: usize,
        /// Also those to come, until interrupted.
        #[arg(long, short, conflicts_with = "json")]
        follow: bool,
    },
}

/// `teemate function deploy`.
#[derive(Debug, Args)]
pub struct Deploy {
    /// Name: letters, digits and _ . @ -
    pub name: String,
    /// WebAssembly module (WASI preview 1 command) or JavaScript source.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Language.
    #[arg(long, default_value = "auto")]
    pub kind: KindName,
    /// Entry point of a JavaScript function.
    #[arg(long, default_value = "main", value_name = "NAME")]
    pub main: String,
    /// Wall-clock time of a call.
    #[arg(long, default_value = "60s", value_parser = value::milliseconds, value_name = "TIME")]
    pub timeout: u64,
    /// Linear memory of a call.
    #[arg(long, default_value = "256M", value_parser = value::size, value_name = "SIZE")]
    pub memory: u64,
    /// Fuel of a call: about one unit an instruction [default: only time limits it].
    #[arg(long, value_name = "UNITS")]
    pub fuel: Option<u64>,
    /// CPU of a call's container: cores, or thousandths as in 500m [default: no limit].
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = value::cpu, value_name = "CORES")]
    pub cpu: u32,
    /// Log of a call.
    #[arg(long, default_value = "10M", value_parser = value::size, value_name = "SIZE")]
    pub log: u64,
    /// Result of a call.
    #[arg(long, default_value = "1M", value_parser = value::size, value_name = "SIZE")]
    pub result: u64,
    /// A destination that it may connect to; repeatable. None: it has no network.
    #[arg(long, value_name = "HOST:PORT")]
    pub egress: Vec<String>,
    /// A file that it may read; repeatable. The enclave checks its SHA-256 at each read.
    #[arg(long = "file", value_parser = value::file, value_name = "LOCAL=PATH")]
    pub files: Vec<(PathBuf, String)>,
    /// An environment variable; repeatable.
    #[arg(long, short, value_parser = value::pair, value_name = "NAME=VALUE")]
    pub env: Vec<(String, String)>,
    /// A variable that holds a secret of the key broker; repeatable. The enclave has it released at a call: it is not stored.
    #[arg(long = "secret", value_parser = value::pair, value_name = "NAME=REPOSITORY/TYPE/TAG", requires = "broker")]
    pub secrets: Vec<(String, String)>,
    /// The key broker that has the secrets: `https://HOST[:PORT][/PATH]`.
    #[arg(long, value_name = "URL", requires = "broker_ca")]
    pub broker: Option<String>,
    /// Root certificates in PEM, one of which vouches for the key broker.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "broker")]
    pub broker_ca: Option<PathBuf>,
    /// Let anybody call it by HTTP, under /api/v1/web/NAMESPACE/default/NAME.
    #[arg(long)]
    pub web: bool,
    /// What calls of it share.
    #[arg(long, default_value = "fresh")]
    pub reuse: ReuseName,
    /// How long a container waits for the next call, if it is used again.
    #[arg(long, default_value = "60s", value_parser = value::milliseconds, value_name = "TIME")]
    pub idle: u64,
}

/// `teemate function invoke`.
#[derive(Debug, Args)]
pub struct Invoke {
    /// Name.
    pub name: String,
    /// One parameter; repeatable. The value is JSON where it is JSON, else a string.
    #[arg(long, short, value_parser = value::pair, value_name = "NAME=VALUE")]
    pub param: Vec<(String, String)>,
    /// All parameters: a JSON object, or @FILE, or - for stdin.
    #[arg(long, value_name = "JSON|@FILE|-")]
    pub params: Option<String>,
    /// Not in the node's own mode.
    #[arg(long)]
    pub sharing: Option<SharingName>,
    /// Where the time went (on stderr).
    #[arg(long)]
    pub breakdown: bool,
    /// What the function wrote (on stderr).
    #[arg(long)]
    pub logs: bool,
}

/// `teemate image`.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build an image of the library OS and a payload. The same input gives the same MRENCLAVE on every machine.
    Build {
        /// The library OS: a static-pie ELF file.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        libos: PathBuf,
        /// The payload: a static-pie ELF file.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        payload: PathBuf,
        /// What else the image is made of [default: a function service's].
        #[arg(long, value_name = "TOML", value_hint = ValueHint::FilePath)]
        config: Option<PathBuf>,
        /// Where the image goes.
        #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: PathBuf,
        /// Sign it as well, with this key.
        #[arg(long, value_name = "PEM", value_hint = ValueHint::FilePath)]
        key: Option<PathBuf>,
    },
    /// Put a function into a container image (an OCI layout in a tar file), without a Docker daemon. containerd, Docker and podman take it.
    Pack {
        /// The function: a .js, .wasm or .zip file.
        #[arg(value_hint = ValueHint::FilePath)]
        code: PathBuf,
        /// Reference of the image, such as `docker.io/ada/hello:1`.
        #[arg(long)]
        name: String,
        /// Where the tar file goes.
        #[arg(long, short, value_hint = ValueHint::FilePath)]
        output: PathBuf,
        /// How the code lies in it.
        #[command(flatten)]
        form: Form,
    },
    /// Put a function into a container image and push it to a registry, without a Docker daemon.
    Push {
        /// The function: a .js, .wasm or .zip file.
        #[arg(value_hint = ValueHint::FilePath)]
        code: PathBuf,
        /// Where it goes, such as `registry.example/ada/hello:1`.
        name: String,
        /// Who pushes [default: who is logged in with `docker login`].
        #[arg(long, requires = "password_file")]
        username: Option<String>,
        /// File with that one's password or token.
        #[arg(long, value_name = "FILE", requires = "username", value_hint = ValueHint::FilePath)]
        password_file: Option<PathBuf>,
        /// Trust this certificate instead of the web's authorities.
        #[arg(long, value_name = "PEM", value_hint = ValueHint::FilePath)]
        ca: Option<PathBuf>,
        /// Speak HTTP without TLS. Everybody between sees code and password.
        #[arg(long, conflicts_with = "ca")]
        plain_http: bool,
        /// How the code lies in it.
        #[command(flatten)]
        form: Form,
    },
    /// Sign an image.
    Sign {
        /// The image; it is changed.
        #[arg(value_hint = ValueHint::FilePath)]
        image: PathBuf,
        /// RSA-3072 key with exponent 3, as `image keygen` makes it.
        #[arg(long, value_name = "PEM", value_hint = ValueHint::FilePath)]
        key: PathBuf,
        /// Where the signed image goes [default: the image itself].
        #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
    /// Print the MRENCLAVE of an image.
    Measure {
        /// The image.
        #[arg(value_hint = ValueHint::FilePath)]
        image: PathBuf,
    },
    /// Check an image's layout and signature.
    Verify {
        /// The image.
        #[arg(value_hint = ValueHint::FilePath)]
        image: PathBuf,
        /// Fail unless it measures this, in hexadecimal.
        #[arg(long, value_name = "HEX")]
        mrenclave: Option<String>,
        /// Fail unless its signer is this, in hexadecimal.
        #[arg(long, value_name = "HEX")]
        mrsigner: Option<String>,
    },
    /// Show what an image consists of.
    Show {
        /// The image.
        #[arg(value_hint = ValueHint::FilePath)]
        image: PathBuf,
    },
    /// Make a signing key. Keep it: who has it signs in your name.
    Keygen {
        /// Where it goes; an existing file is never overwritten.
        #[arg(value_hint = ValueHint::FilePath)]
        key: PathBuf,
    },
}

/// Names of [`Sharing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SharingName {
    /// No enclave: an ordinary process in a container.
    Native,
    /// One enclave a container, built at each start.
    Exclusive,
    /// One enclave, many containers.
    Shared,
}

impl From<SharingName> for Sharing {
    fn from(name: SharingName) -> Self {
        match name {
            SharingName::Native => Sharing::Native,
            SharingName::Exclusive => Sharing::Exclusive,
            SharingName::Shared => Sharing::Shared,
        }
    }
}

/// Names of [`Reuse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReuseName {
    /// Nothing: each call has a new container and a new instance.
    Fresh,
    /// The container; the instance is put back to what it was after its initialisation.
    Rewind,
    /// Container and instance: what a call leaves in global variables, the next one finds.
    Keep,
}

impl From<ReuseName> for Reuse {
    fn from(name: ReuseName) -> Self {
        match name {
            ReuseName::Fresh => Reuse::Fresh,
            ReuseName::Rewind => Reuse::Rewind,
            ReuseName::Keep => Reuse::Keep,
        }
    }
}

/// Names of [`Kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KindName {
    /// By content, else by the file's ending.
    Auto,
    /// WebAssembly.
    Wasm,
    /// JavaScript.
    #[value(alias = "js")]
    Javascript,
}

impl From<KindName> for Option<Kind> {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Auto => None,
            KindName::Wasm => Some(Kind::Wasm),
            KindName::Javascript => Some(Kind::JavaScript),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_deployment_with_everything() {
        let line = "teemate function deploy f f.js --kind js --memory 1M --timeout 5s --fuel 9 --egress a:1 --file x=/y --env A=B";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Function(Function::Deploy(deploy)) = arguments.command else { panic!() };
        assert_eq!((deploy.memory, deploy.timeout, deploy.fuel), (1 << 20, 5000, Some(9)));
        assert_eq!(deploy.files, [(PathBuf::from("x"), "/y".to_owned())]);
    }

    #[test]
    fn bench_passes_everything_on() {
        let arguments = Arguments::try_parse_from(["teemate", "bench", "--samples", "3"]).unwrap();
        let Command::Bench { arguments } = arguments.command else { panic!() };
        assert_eq!(arguments, ["--samples", "3"]);
    }
}
