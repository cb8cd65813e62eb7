//! What comes out of TLS: any bytes, as HTTP/1.1 or HTTP/2. Each request is answered once or given up, and nothing panics.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use teemate_gateway::Limits;
use teemate_gateway::activity::Activity;
use teemate_gateway::connection::{Version, serve};
use teemate_gateway::testing::service;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let version = if choice & 1 == 0 { Version::Http1 } else { Version::Http2 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let counts = runtime.block_on(async {
        let (service, _) = service(Limits::default()).expect("a service");
        let (ours, theirs) = tokio::io::duplex(1 << 12);
        let serving = tokio::spawn(serve(theirs, version, service.clone(), Activity::new()));
        let (mut reader, mut writer) = tokio::io::split(ours);
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            let _ = reader.read_to_end(&mut all).await;
        });
        for piece in bytes.chunks(1 + usize::from(*choice) * 8) {
            if writer.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let _ = writer.shutdown().await;
        serving.await.expect("the connection panicked");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = reading.await;
        service.metrics().counts()
    });
    let answered = counts.answered_well + counts.answered_client_error + counts.answered_server_error;
    assert_eq!(counts.requests, answered + counts.abandoned);
});
