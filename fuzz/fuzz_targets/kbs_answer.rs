//! Answers of a key broker: whatever comes is an error or is used within its bounds.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use teemate_kbs::{Answer, Evidence, Hello, MAX_BODY, read_answer};

fn ok(cookie: &str, body: &[u8]) -> Answer {
    Answer { status: 200, cookies: vec![cookie.to_owned()], body: body.to_vec() }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((step, bytes)) = bytes.split_first() else { return };
    match step % 4 {
        0 => {
            let mut rest = Vec::new();
            let mut stream = Cursor::new(bytes);
            while let Ok(answer) = read_answer(&mut stream, &mut rest) {
                assert!(answer.body.len() <= MAX_BODY);
                if let Ok(challenged) = Hello::sgx().answer(&answer) {
                    challenged.report_data().expect("any challenge can be bound");
                }
                if answer.body.is_empty() && rest.is_empty() {
                    break;
                }
            }
        }
        1 => {
            let text = String::from_utf8_lossy(bytes);
            let (cookie, body) = text.split_once('\n').unwrap_or(("kbs-session-id=1", &text));
            if let Ok(challenged) = Hello::sgx().answer(&ok(cookie, body.as_bytes())) {
                let request = challenged.request(&Evidence::Sgx { quote: vec![1] }).expect("any challenge can be answered");
                assert!(request.cookie.expect("a session has a cookie").bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
        step => {
            let challenge = ok("kbs-session-id=1", br#"{"nonce":"n"}"#);
            let challenged = Hello::sgx().answer(&challenge).expect("a good challenge");
            if step == 2 {
                let _ = challenged.answer(&ok("", bytes));
                return;
            }
            let session = challenged.answer(&ok("", br#"{"token":"t"}"#)).expect("a good token");
            let resource = "a/b/c".parse().expect("a good name");
            // The session's key is new each time: nothing can have been encrypted for it.
            assert!(session.answer(&resource, &ok("", bytes)).is_err());
        }
    }
});
