//! Threads, sockets, panics and files of std: its own syscall sites, not only the C library's.
use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

fn main() {
    let shared = Arc::new((Mutex::new(HashMap::new()), Condvar::new()));
    let threads: Vec<_> = (0..8)
        .map(|index| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for key in 0..500 {
                    *shared.0.lock().unwrap().entry(key).or_insert(0) += index;
                    shared.1.notify_all();
                }
            })
        })
        .collect();
    let mut map = shared.0.lock().unwrap();
    while map.get(&499) != Some(&28) {
        map = shared.1.wait(map).unwrap();
    }
    drop(map);
    for thread in threads {
        thread.join().unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap()
    });
    TcpStream::connect(address).unwrap().write_all(&[1; 100_000]).unwrap();
    assert_eq!(reader.join().unwrap(), 100_000);
    assert!(std::panic::catch_unwind(|| panic!("expected")).is_err());
    assert!(std::fs::read("/nonexistent").is_err());
    thread::sleep(Duration::from_millis(1));
    println!("all right");
}
