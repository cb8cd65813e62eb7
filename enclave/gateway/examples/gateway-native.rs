//! A gateway as an ordinary process, with stand-ins for the rest of the service: for trying clients.
//!
//! `cargo run -p teemate-gateway --example gateway-native -- [ADDRESS]` listens on 127.0.0.1:8443 unless told otherwise. Its quotes are
//! simulated, its owner is [`teemate_gateway::testing::ADA`], `welcome` is an invitation. The API below /api/v1 only echoes:
//! see [`teemate_gateway::testing::Echo`].

use std::net::TcpListener;
use std::time::Duration;

use teemate_gateway::testing::{ADA, Echo, SimulatedAttester, parts};
use teemate_gateway::{Gateway, Settings, State};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8443".to_owned());
    let mut parts = parts(SimulatedAttester::failing(0), std::sync::Arc::new(Echo::default()), Settings::default())?;
    parts.listener = TcpListener::bind(&address)?;
    println!("https://{} (simulated quotes), credentials {ADA}", parts.listener.local_addr()?);
    let gateway = Gateway::start(parts)?;
    while gateway.state() != State::Ended {
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}
