//! The gateway in the service: opens the sealed store and answers owners at the listening socket, when the node's administrator says so.
//!
//! This is where the parts meet: the store asks the host for bytes, attestation asks it for quotes, the API calls functions and has key
//! brokers release their secrets; all of it through the [`Handle`]. Orders may wait for the disk, so a thread of its own carries them out,
//! one after the other.

pub mod brokers;
mod disk;
mod functions;
pub mod quotes;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use teemate_attestation::{Collateral, Endpoint};
use teemate_control::function::{Failure, FailureKind};
use teemate_control::service::{Allowance, Nodes, Order, OrderDone, OwnerInfo};
use teemate_gateway::nodes::follower::{Dial, Follower};
use teemate_gateway::nodes::following::{FollowingAccounts, FollowingRoutes, FollowingStore};
use teemate_gateway::nodes::source::Source;
use teemate_gateway::nodes::{Acceptance, Role};
use teemate_gateway::whisk::vault::VaultStore;
use teemate_gateway::whisk::{Config, Store, Whisk};
use teemate_gateway::{About, Accounts, Identity, Parts, Receipts, Routes, Settings, Shelf, State};
use teemate_service::peers;
use teemate_service::stream::Lasting;
use teemate_vault::{EnclaveSealing, Key, OwnerError, OwnerLimits, OwnerState, Owners, Vault, VaultError};

use self::brokers::Brokers;
use self::disk::HostDisk;
use self::quotes::Quotes;
use crate::handle::Handle;
use crate::service::{Gateway, Ordered};

/// How long an invitation is valid.
const INVITATION: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long another node may take for one step. It waits for a quarter of a minute when nothing has changed.
const STEP: Duration = Duration::from_secs(30);
/// How long the first quote may take before the order to serve fails.
const ATTESTATION: Duration = Duration::from_secs(45);

/// For [`crate::service::serve`]: a gateway that will answer at this socket.
///
/// # Errors
/// When there is no thread for it.
pub fn start(handle: Handle, listener: TcpListener) -> io::Result<Gateway> {
    let (sender, orders) = channel::<(Order, Ordered)>();
    std::thread::Builder::new()
        .name("administrator".to_owned())
        .stack_size(1 << 20)
        .spawn(move || Administrator { handle, listener: Some(listener), nodes: None, open: None }.work(&orders))?;
    Ok(Box::new(move |order, ordered| {
        if let Err(error) = sender.send((order, ordered)) {
            let (_, ordered) = error.0;
            ordered(Err(Failure::new(FailureKind::Internal, "the gateway's thread has ended; the service's log says why")));
        }
    }))
}

/// Carries out orders.
struct Administrator {
    handle: Handle,
    /// With the gateway while that serves.
    listener: Option<TcpListener>,
    /// What this node is to others.
    nodes: Option<Nodes>,
    open: Option<Open>,
}

/// A gateway that serves, and the store that it has open.
struct Open {
    gateway: Arc<teemate_gateway::Gateway>,
    whisk: Arc<Whisk>,
    owners: Arc<Owners>,
    vault: Arc<Vault>,
    /// If this node follows another one.
    follower: Option<Arc<Follower>>,
}

/// Where the parts meet that are others on a node that follows.
struct Sides {
    store: Arc<dyn Store>,
    shelf: Arc<dyn Shelf>,
    accounts: Arc<dyn Accounts>,
    follower: Option<Arc<Follower>>,
}

impl Administrator {
    fn work(mut self, orders: &Receiver<(Order, Ordered)>) {
        for (order, ordered) in orders {
            ordered(self.carry_out(order));
        }
    }

    fn carry_out(&mut self, order: Order) -> Result<OrderDone, Failure> {
        match order {
            Order::Nodes(nodes) => {
                self.nodes = Some(nodes);
                Ok(OrderDone::Done)
            }
            Order::Serve => self.serve().map(|()| OrderDone::Done),
            Order::Drain { within_ms } => self.drain(Duration::from_millis(within_ms)).map(|()| OrderDone::Done),
            Order::Invite { namespace, allowance } => self.invite(&namespace, allowance),
            Order::Owners => {
                let owners = self.opened()?.owners.list();
                let info = |owner: &teemate_vault::OwnerInfo| OwnerInfo {
                    namespace: owner.namespace.clone(),
                    claimed: matches!(owner.state, OwnerState::Active { .. }),
                };
                Ok(OrderDone::Owners(owners.iter().map(info).collect()))
            }
            Order::RemoveOwner { namespace } => {
                let open = self.opened()?;
                open.keeps_owners()?;
                open.owners.remove(&namespace).map_err(refused)?;
                open.gateway.forget_credentials();
                open.whisk.forget(&namespace);
                Ok(OrderDone::Done)
            }
        }
    }

    fn opened(&self) -> Result<&Open, Failure> {
        self.open
            .as_ref()
            .ok_or_else(|| Failure::new(FailureKind::Busy, "the gateway does not serve now: the node is starting or stopping"))
    }

    fn serve(&mut self) -> Result<(), Failure> {
        if self.open.is_some() {
            return Ok(());
        }
        let open = self.begin()?;
        // Serving means that a client can verify: not before there is a quote.
        let end = Instant::now() + ATTESTATION;
        let mut failed = None;
        while open.gateway.state() != State::Serving {
            if let State::Attesting(why) = open.gateway.state() {
                failed = why.or(failed);
            }
            if Instant::now() > end {
                self.close(&open.gateway, Duration::ZERO);
                let why = failed.unwrap_or_else(|| "the host did not answer".to_owned());
                return Err(internal(format!("the gateway can't serve, for there is no quote of this enclave: {why}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.open = Some(open);
        Ok(())
    }

    fn begin(&mut self) -> Result<Open, Failure> {
        let sealing = EnclaveSealing::new().map_err(|error| internal(format!("this process has no sealing key: {error}")))?;
        let vault = Vault::open(Arc::new(HostDisk(self.handle.clone())), Arc::new(sealing))
            .map_err(|error| Failure::new(FailureKind::Integrity, format!("the sealed store can't be opened: {error}")))?;
        let owners = Arc::new(Owners::open(vault.clone()).map_err(refused)?);
        let identity = Arc::new(Identity::generate().map_err(|error| internal(error.to_string()))?);
        let attester = Arc::new(Quotes::new(self.handle.clone()));
        let Sides { store, shelf, accounts, follower } = self.sides(&vault, &owners, attester.clone())?;
        let receipts = Receipts::new(identity.clone(), shelf);
        // The host says where that is; a function that calls back verifies whom it reaches.
        let address = self.listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let mut config = Config::default();
        if let Some(address) = address {
            config.api_host = format!("https://{address}");
        }
        let brokers = Arc::new(Brokers::new(self.handle.clone(), attester.clone()));
        let whisk = Whisk::new(config, Arc::new(self.handle.clone()), store, receipts.clone(), brokers);
        let epoch = vault.clone();
        let about = about(&vault)?;
        let (nodes, routes): (Role, Arc<dyn Routes>) = match (&follower, &self.nodes) {
            (Some(follower), _) => (Role::Follower(follower.clone()), FollowingRoutes::new(whisk.clone(), follower.clone())),
            (None, Some(nodes)) => {
                let name = about.store.clone().unwrap_or_default();
                let source = Source::new(vault.clone(), owners.clone(), whisk.clone(), receipts.clone(), acceptance(nodes)?, name);
                (Role::Source(source), whisk.clone())
            }
            (None, None) => (Role::Alone, whisk.clone()),
        };
        let listener = self.listener.take();
        let listener = listener.ok_or_else(|| Failure::new(FailureKind::Invalid, "the node gave this service no listening socket"))?;
        let parts = Parts {
            listener,
            identity,
            attester,
            accounts,
            receipts,
            routes,
            about,
            epoch: Arc::new(move || epoch.epoch()),
            nodes,
            settings: Settings::default(),
        };
        let gateway = teemate_gateway::Gateway::start(parts).map_err(|error| internal(format!("the gateway can't start: {error}")))?;
        let gateway = Arc::new(gateway);
        if let Some(follower) = &follower {
            let known = Arc::downgrade(&gateway);
            let forget = Box::new(move || {
                known.upgrade().inspect(|gateway| gateway.forget_credentials());
            });
            follower.follow(&whisk, forget).map_err(|error| internal(format!("there is no thread to follow another node: {error}")))?;
        }
        Ok(Open { gateway, whisk, owners, vault, follower })
    }

    /// Store and owners of this node, or of one that follows another.
    fn sides(&self, vault: &Arc<Vault>, owners: &Arc<Owners>, attester: Arc<Quotes>) -> Result<Sides, Failure> {
        let store = VaultStore::new(vault.clone(), owners.clone());
        let Some((nodes, join)) = self.nodes.as_ref().and_then(|nodes| Some((nodes, nodes.join.as_deref()?))) else {
            let store = Arc::new(store);
            return Ok(Sides { store: store.clone(), shelf: store, accounts: owners.clone(), follower: None });
        };
        let endpoint: Endpoint = join.parse().map_err(|why| Failure::new(FailureKind::Invalid, format!("--join {join:?}: {why}")))?;
        let handle = self.handle.clone();
        let dial: Dial = Box::new(move |address| Ok(Box::new(Lasting::connect(handle.clone(), address, STEP)?)));
        let follower = Follower::new(endpoint, acceptance(nodes)?, attester, dial, vault.clone(), owners.clone())
            .map_err(|error| internal(format!("there is no thread to follow another node: {error}")))?;
        let store = Arc::new(FollowingStore::new(store, follower.clone()));
        let accounts = FollowingAccounts::new(owners.clone(), follower.clone());
        Ok(Sides { store: store.clone(), shelf: store, accounts, follower: Some(follower) })
    }

    fn drain(&mut self, limit: Duration) -> Result<(), Failure> {
        let Some(open) = self.open.take() else { return Ok(()) };
        open.follower.inspect(|follower| follower.end());
        let end = Instant::now() + limit;
        self.close(&open.gateway, limit);
        // Calls that nobody waits for go on, and their records belong to the store.
        while open.whisk.running() > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Records of the last calls are durable before another gateway reads the store.
        open.vault.flush().map_err(|error| internal(format!("the last records could not be written: {error}")))
    }

    fn close(&mut self, gateway: &teemate_gateway::Gateway, limit: Duration) {
        gateway.drain(limit);
        self.listener = gateway.take_listener();
    }

    fn invite(&self, namespace: &str, allowance: Allowance) -> Result<OrderDone, Failure> {
        let open = self.opened()?;
        open.keeps_owners()?;
        let mut limits = OwnerLimits::default();
        if let Some(per_minute) = allowance.per_minute {
            (limits.calls_per_minute, limits.triggers_per_minute) = (per_minute, per_minute);
        }
        limits.concurrent = allowance.concurrent.unwrap_or(limits.concurrent);
        let token = open.owners.invite(namespace, limits, INVITATION).map_err(refused)?;
        let expires = open.owners.get(namespace).and_then(|owner| match owner.state {
            OwnerState::Invited { expires } => Some(expires),
            _ => None,
        });
        Ok(OrderDone::Claim { token, expires: expires.unwrap_or(0) })
    }
}

impl Open {
    /// Only the node that is followed makes and removes owners.
    fn keeps_owners(&self) -> Result<(), Failure> {
        match &self.follower {
            None => Ok(()),
            Some(follower) => {
                let why = format!("this node follows {}: owners are invited and removed there", follower.endpoint());
                Err(Failure::new(FailureKind::Invalid, why))
            }
        }
    }
}

/// What other nodes are accepted by.
fn acceptance(nodes: &Nodes) -> Result<Acceptance, Failure> {
    let policy = peers::like_this_one().map_err(|error| internal(format!("there is no report of this enclave: {error}")))?;
    let collateral = nodes.collateral.as_ref().map(|text| Collateral::from_slice(text.as_bytes())).transpose();
    Ok(Acceptance { policy, collateral: collateral.map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))? })
}

/// What this enclave is, by its own report.
fn about(vault: &Vault) -> Result<About, Failure> {
    let report =
        teemate_containers::report(None, &[0; 64]).map_err(|error| internal(format!("there is no report of this enclave: {error}")))?;
    let measurement = |at: usize| {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&report[at..at + 32]);
        bytes
    };
    // REPORT (SDM vol. 3D, 38.16).
    Ok(About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mrenclave: measurement(64),
        mrsigner: measurement(128),
        isv_prod_id: u16::from_le_bytes([report[256], report[257]]),
        isv_svn: u16::from_le_bytes([report[258], report[259]]),
        store: Some(store_name(vault)?),
    })
}

/// Owner of what belongs to no owner: no namespace can have this name.
const SYSTEM: &str = ":gateway";

/// The store's own name: drawn when it was made, and the same for its whole life.
fn store_name(vault: &Vault) -> Result<String, Failure> {
    let key = Key::new(SYSTEM, "store", "name");
    let unreadable = |error: VaultError| internal(format!("the sealed store's name: {error}"));
    if let Some(name) = vault.get(&key).map_err(unreadable)? {
        return String::from_utf8(name).map_err(|_| internal("the sealed store's name is no text".to_owned()));
    }
    let mut bytes = [0; 16];
    crate::clock::random(&mut bytes);
    let name = teemate_evidence::encoding::hex(&bytes);
    vault.put(&key, name.as_bytes()).map_err(unreadable)?;
    Ok(name)
}

fn internal(message: String) -> Failure {
    Failure::new(FailureKind::Internal, message)
}

/// A refusal of the owners' book, for the administrator.
fn refused(error: OwnerError) -> Failure {
    let kind = if matches!(error, OwnerError::Vault(_)) { FailureKind::Internal } else { FailureKind::Invalid };
    Failure::new(kind, error.to_string())
}
