//! Receipts: any text, any payload under a right signature, bundles and other documents.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_attestation::Document;
use teemate_evidence::api::{AttestRequest, Info, ReceiptBundle, parse_nonce};
use teemate_evidence::encoding::base64url;
use teemate_evidence::receipt::TYPE;
use teemate_evidence::{Binding, Receipt, SecretKey};

fuzz_target!(|bytes: &[u8]| {
    let key = SecretKey::from_bytes(&[1; 32]).expect("a key");
    let text = String::from_utf8_lossy(bytes);
    assert!(Receipt::check(&text, &key.public()).is_err(), "nobody can guess a signature");
    let header = format!(r#"{{"alg":"ES256","kid":"{}","typ":"{TYPE}"}}"#, key.public().thumbprint());
    let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(bytes));
    let token = format!("{signed}.{}", base64url(&key.sign(signed.as_bytes())));
    if let Ok(receipt) = Receipt::check(&token, &key.public())
        && let Ok(own) = receipt.sign(&key)
    {
        assert_eq!(Receipt::check(&own, &key.public()).expect("its own token"), receipt);
    }
    if let Ok(binding) = serde_json::from_slice::<Binding>(bytes) {
        let _ = binding.check(&binding.report_data());
    }
    if let Ok(bundle) = serde_json::from_slice::<ReceiptBundle>(bytes) {
        let _ = bundle.check(&bundle.binding.report_data());
    }
    let _ = (serde_json::from_slice::<Info>(bytes), serde_json::from_slice::<AttestRequest>(bytes), parse_nonce(&text));
    let _ = Document::parse(bytes);
});
