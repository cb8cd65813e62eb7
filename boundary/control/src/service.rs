//! Node <-> function service. One message is one or more packets on the payload's file descriptor 3.

use serde::{Deserialize, Serialize};

use crate::function::{Failure, FunctionSpec, Outcome};

/// The payload's file descriptor that carries this protocol.
pub const SERVICE_FD: i32 = 3;
/// The payload's file descriptor of the listening socket, where the node gives it one. Only the payload's own threads have it, never a
/// container.
pub const LISTEN_FD: i32 = 4;

/// What the node sends. `request` numbers are the node's; the answer carries the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToService {
    /// First message on a new channel. The service drops half-read messages of an older channel.
    Hello {
        /// [`crate::PROTOCOL`].
        protocol: u32,
    },
    /// Compile and keep a function; replaces one of the same name.
    Deploy {
        /// Number of the request.
        request: u64,
        /// What it is.
        spec: FunctionSpec,
        /// Source or module.
        code: Vec<u8>,
        /// Only in native mode: code that an earlier process of the same program compiled. An enclave never accepts it.
        precompiled: Option<Vec<u8>>,
    },
    /// Forget a function.
    Delete {
        /// Number of the request.
        request: u64,
        /// Name.
        name: String,
    },
    /// Call a function.
    Invoke {
        /// Number of the request. A number that was answered or is under way is not run again.
        request: u64,
        /// Name.
        name: String,
        /// JSON object.
        params: Vec<u8>,
        /// Run in this process (native, exclusive) instead of asking for a container (shared).
        inline: bool,
    },
    /// A container that the service asked for is gone, or never came to be.
    ContainerLost {
        /// Its id.
        container: u64,
        /// For the caller: killed, out of memory, no TCS, ...
        reason: String,
    },
    /// Give up a call: its caller has gone or its deadline has passed.
    Cancel {
        /// Number of the call.
        request: u64,
    },
    /// Counters.
    Stats {
        /// Number of the request.
        request: u64,
    },
    /// Containers are short: those that wait for further calls of their function shall go, the one that waits longest first.
    Reclaim {
        /// How many are wanted now, in all.
        wanted: u32,
    },
    /// Answer to [`FromService::Ask`].
    Reply {
        /// Number of the question.
        question: u64,
        /// What the host says. Untrusted, as everything from there.
        reply: Reply,
    },
    /// What the node's administrator wants of the gateway.
    Administer {
        /// Number of the request.
        request: u64,
        /// What.
        order: Order,
    },
    /// Something about a link to another enclave of the same program.
    Link {
        /// The other enclave, by the node's number for it.
        peer: u64,
        /// What.
        link: LinkOrder,
    },
    /// There is no room here for this container, but in another enclave: its call may go there.
    Elsewhere {
        /// Id of the container that was asked for.
        container: u64,
        /// The enclave with room; a link to it must be up.
        peer: u64,
    },
    /// Finish what runs, then exit.
    Shutdown,
}

/// What the node wants of a link. It carries a link's packets and reads none: they are sealed by one enclave for the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkOrder {
    /// Make a link: the other end answers.
    Open,
    /// What the other end sent.
    Packet(Vec<u8>),
    /// Give the other enclave no more calls; say [`LinkNews::Down`] when the last has been answered.
    Drain,
    /// The other enclave is gone, and why: its calls are lost.
    Close(String),
}

/// What the service says of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkNews {
    /// The other end is the same program, and calls may go there. Only from the end that opened it.
    Up,
    /// For the other end.
    Packet(Vec<u8>),
    /// There is none (any more), and why.
    Down(String),
}

/// What the node's administrator can want of the gateway. None of it shows him an owner's data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// What this node is to others, from the next [`Order::Serve`] on.
    Nodes(Nodes),
    /// Open the sealed store and answer at the listening socket ([`LISTEN_FD`]). Only one service at a time may have the store open.
    Serve,
    /// Accept nothing more, answer what is under way, and close the store. Connections that nobody accepted stay with the socket.
    Drain {
        /// Milliseconds after which connections are cut.
        within_ms: u64,
    },
    /// Make a token with which somebody can become the owner of a namespace.
    Invite {
        /// Name of the namespace.
        namespace: String,
        /// What its owner may use.
        allowance: Allowance,
    },
    /// All owners.
    Owners,
    /// Forget an owner and everything that it has.
    RemoveOwner {
        /// Its namespace.
        namespace: String,
    },
}

/// What a node is to others that serve the same owners. What the host says here it can only say to its own harm: who is followed, and who
/// follows, the enclaves verify.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Nodes {
    /// The node to follow: `https://HOST:PORT`. `None`: others may follow this one.
    pub join: Option<String>,
    /// Collateral for quotes of processors, JSON; it is signed by their maker.
    pub collateral: Option<String>,
}

/// What an owner may use, where it differs from the gateway's defaults (OpenWhisk's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Calls that may begin in a minute, and triggers that may be fired.
    pub per_minute: Option<u32>,
    /// Calls at one time.
    pub concurrent: Option<u32>,
}

/// Answer to an [`Order`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OrderDone {
    /// To Nodes, Serve, Drain, RemoveOwner.
    Done,
    /// To Invite.
    Claim {
        /// Works once.
        token: String,
        /// Seconds since 1970 until when it works.
        expires: u64,
    },
    /// To Owners.
    Owners(Vec<OwnerInfo>),
}

/// An owner, as the administrator may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerInfo {
    /// Namespace.
    pub namespace: String,
    /// Whether somebody has claimed it.
    pub claimed: bool,
}

/// What the service asks of the host beside containers. Everything that the host gets to keep is sealed before it leaves the enclave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// TARGETINFO (512 bytes) of the machine's quoting enclave.
    QuoteTarget,
    /// A quote of this REPORT (432 bytes), which was made for that target.
    Quote {
        /// The REPORT.
        report: Vec<u8>,
    },
    /// A piece of the active generation of the sealed journal; empty at its end.
    Journal {
        /// Where it begins.
        offset: u64,
        /// Most bytes of it; never more than [`JOURNAL_PIECE`] come.
        length: u32,
    },
    /// Append to a generation of the journal, durably: the active one, or one that is being written to take its place.
    Append {
        /// Generation; the active one's number is the first eight bytes that `Journal` gives, little-endian.
        generation: u64,
        /// Where in it: appending twice at one place writes once.
        offset: u64,
        /// Sealed entries.
        bytes: Vec<u8>,
    },
    /// Make a generation the active one, atomically, and forget all others.
    Activate {
        /// Generation.
        generation: u64,
    },
    /// Keep a sealed blob under this id, durably.
    PutBlob {
        /// Chosen at random by the enclave.
        id: [u8; 32],
        /// Sealed bytes.
        bytes: Vec<u8>,
    },
    /// The blob of this id.
    Blob {
        /// Its id.
        id: [u8; 32],
    },
    /// Forget a blob.
    DropBlob {
        /// Its id.
        id: [u8; 32],
    },
    /// Open a connection over which the enclave speaks TLS with a server that an owner named. The host carries the bytes.
    Connect {
        /// Number that the enclave chose for it; none is used twice.
        connection: u64,
        /// `host:port`.
        address: String,
    },
    /// Send bytes over a connection; done when the system has taken all of them.
    Send {
        /// Which.
        connection: u64,
        /// At most [`STREAM_PIECE`].
        bytes: Vec<u8>,
    },
    /// Bytes that came over a connection, as soon as there are any; empty at its end; [`Reply::Missing`] when nothing came in time.
    Receive {
        /// Which.
        connection: u64,
        /// Most bytes of it; never more than [`STREAM_PIECE`] come.
        length: u32,
        /// How long to wait for the first, milliseconds.
        within_ms: u32,
    },
    /// Close a connection, or give up opening it.
    HangUp {
        /// Which.
        connection: u64,
    },
}

/// Most bytes of one answer to [`Ask::Journal`].
pub const JOURNAL_PIECE: usize = 4 << 20;
/// Most bytes of one [`Ask::Send`], and of one answer to [`Ask::Receive`]: with its head it is one packet.
pub const STREAM_PIECE: usize = 48 << 10;
/// Most bytes of a sealed blob: OpenWhisk's 48 MB of code, and some room.
pub const BLOB_LIMIT: usize = 64 << 20;
/// Most bytes of a quote.
pub const QUOTE_LIMIT: usize = 64 << 10;
/// The longest for which a container may be kept, from the last [`FromService::KeepContainer`] on.
pub const KEEP_LIMIT_MS: u64 = 4_800_000;

/// The host's answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// What was asked for.
    Bytes(Vec<u8>),
    /// There is no such thing: no journal yet, no such blob.
    Missing,
    /// It could not be done, and why.
    Failed(String),
}

/// What the service sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromService {
    /// The engine stands; functions can be deployed.
    Ready {
        /// [`crate::PROTOCOL`].
        protocol: u32,
    },
    /// Run a container for a call: a process with these limits that enters the enclave and binds to `container`.
    NeedContainer {
        /// Id that the enclave chose; never used twice in its life.
        container: u64,
        /// Limit of the container's own memory in bytes (the enclave keeps the quota of EPC).
        memory: u64,
        /// Thousandths of a core; 0: no limit.
        cpu_milli: u32,
        /// `host:port` that the node may connect for it.
        egress: Vec<String>,
        /// Whether it may use the node's data directory, in which the payload keeps files of its own.
        data: bool,
        /// Name of the function, so that the node can find its files. A function that the node did not deploy is an opaque id to it.
        function: String,
        /// Time limit of the call in milliseconds: what outlives it by much may be killed.
        timeout_ms: u64,
        /// For how long it may wait for a further call of the function; 0: it serves one call only. See [`FromService::KeepContainer`].
        keep_ms: u64,
        /// Whether only this enclave will do: the call can't be given to another.
        here: bool,
    },
    /// A container that was asked for is not needed any more: its call was answered otherwise. If it comes all the same, it leaves again.
    Unneeded {
        /// Its id.
        container: u64,
    },
    /// A container waits for further calls of its function: it may live for so long from now.
    KeepContainer {
        /// Its id.
        container: u64,
        /// Milliseconds.
        for_ms: u64,
    },
    /// Answer to Deploy: digest of the code, and in native mode the compiled code.
    Deployed {
        /// Number of the request.
        request: u64,
        /// SHA-256 of the code as given.
        digest: [u8; 32],
        /// Only in native mode.
        precompiled: Option<Vec<u8>>,
    },
    /// Answer to Delete.
    Deleted {
        /// Number of the request.
        request: u64,
    },
    /// Answer to Invoke.
    Done {
        /// Number of the request.
        request: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// Answer to Stats.
    Stats {
        /// Number of the request.
        request: u64,
        /// Functions deployed.
        functions: u64,
        /// Calls under way.
        running: u64,
        /// Worker threads that wait for a container.
        idle_workers: u64,
        /// Calls answered since the start.
        answered: u64,
    },
    /// Answer to Administer.
    Administered {
        /// Number of the request.
        request: u64,
        /// What came of it.
        done: OrderDone,
    },
    /// The service wants something of the host.
    Ask {
        /// Number of the question; the reply carries the same.
        question: u64,
        /// What.
        ask: Ask,
    },
    /// A request failed as a whole.
    Failed {
        /// Number of the request.
        request: u64,
        /// Why.
        failure: Failure,
    },
    /// Something about a link to another enclave.
    Link {
        /// The other enclave.
        peer: u64,
        /// What.
        news: LinkNews,
    },
}
