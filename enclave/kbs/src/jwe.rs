//! Decryption of secrets: ECDH-ES+A256KW on P-256 and A256GCM (RFC 7516, RFC 7518).

use aes_kw::{KeyInit, KwAes256};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};

use crate::KbsError;
use crate::key::SessionKey;
use crate::message::{Jwe, JweHeader};

/// How the content's key is encrypted: what the session's public key says of itself.
pub const ALGORITHM: &str = "ECDH-ES+A256KW";
/// Its curve.
pub const CURVE: &str = "P-256";
const CONTENT: &str = "A256GCM";

/// The plain text of a secret.
pub fn open(text: &[u8], key: &SessionKey) -> Result<Vec<u8>, KbsError> {
    let wrong = |what| KbsError::Malformed { step: "the request of a resource", what };
    let jwe: Jwe = serde_json::from_slice(text).map_err(|_| wrong("it is no JWE in flattened JSON"))?;
    let header = decode(&jwe.protected).ok_or(wrong("the protected header is not base64url"))?;
    let header: JweHeader = serde_json::from_slice(&header).map_err(|_| wrong("the protected header is not what it should be"))?;
    for (fits, what) in [
        (header.alg == ALGORITHM, "another key encryption than ECDH-ES+A256KW"),
        (header.enc == CONTENT, "another content encryption than A256GCM"),
        (header.crit.is_none(), "an extension of JWE"),
        (header.zip.is_none(), "compressed content"),
    ] {
        if !fits {
            return Err(KbsError::Unsupported { what });
        }
    }
    let sender = header.epk.ok_or(wrong("the sender's key is missing"))?;
    if sender.kty != "EC" || sender.crv != CURVE {
        return Err(KbsError::Unsupported { what: "another curve than P-256" });
    }
    let coordinate = |text: &str| decode(text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let point = coordinate(&sender.x).zip(coordinate(&sender.y)).ok_or(wrong("the sender's key has no coordinates"))?;
    let secret = key.agree(&point.0, &point.1).ok_or(wrong("the sender's key is not on the curve"))?;
    let parties = decode(&header.apu).zip(decode(&header.apv)).ok_or(wrong("the parties' names are not base64url"))?;
    let wrapped = decode(&jwe.encrypted_key).ok_or(wrong("the encrypted key is not base64url"))?;
    let content_key = unwrap(&concat_kdf(&secret, ALGORITHM, &parties.0, &parties.1, 256), &wrapped)?;
    let nonce = decode(&jwe.iv).and_then(|iv| Nonce::try_assume_unique_for_key(&iv).ok()).ok_or(wrong("the IV has not 96 bits"))?;
    let mut content = decode(&jwe.ciphertext).ok_or(wrong("the ciphertext is not base64url"))?;
    content.extend(decode(&jwe.tag).filter(|tag| tag.len() == 16).ok_or(wrong("the tag has not 128 bits"))?);
    // As it was sent: written anew it might be another text.
    let mut associated = jwe.protected.into_bytes();
    if let Some(more) = jwe.aad.filter(|more| !more.is_empty()) {
        associated.push(b'.');
        associated.extend_from_slice(more.as_bytes());
    }
    let cipher = UnboundKey::new(&AES_256_GCM, &content_key).map(LessSafeKey::new).map_err(|_| KbsError::Decrypt)?;
    let length = cipher.open_in_place(nonce, Aad::from(associated), &mut content).map_err(|_| KbsError::Decrypt)?.len();
    content.truncate(length);
    Ok(content)
}

/// AES key wrap (RFC 3394).
fn unwrap(key: &[u8], wrapped: &[u8]) -> Result<[u8; 32], KbsError> {
    let mut content_key = [0; 32];
    if wrapped.len() != content_key.len() + 8 {
        return Err(KbsError::Decrypt);
    }
    let cipher = KwAes256::new_from_slice(key).map_err(|_| KbsError::Decrypt)?;
    cipher.unwrap_key(wrapped, &mut content_key).map_err(|_| KbsError::Decrypt)?;
    Ok(content_key)
}

/// Concat KDF with SHA-256 (RFC 7518, 4.6.2), for keys of at most 256 bits: one round.
fn concat_kdf(secret: &[u8; 32], algorithm: &str, sender: &[u8], receiver: &[u8], bits: u32) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    context.update(&1u32.to_be_bytes());
    context.update(secret);
    for part in [algorithm.as_bytes(), sender, receiver] {
        context.update(&(part.len() as u32).to_be_bytes());
        context.update(part);
    }
    context.update(&bits.to_be_bytes());
    context.finish().as_ref()[..bits as usize / 8].to_vec()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7518, appendix C.
    #[test]
    fn keys_are_agreed_as_in_the_standards_example() {
        let scalar = |text: &str| -> [u8; 32] { decode(text).unwrap().try_into().unwrap() };
        let bob = SessionKey::from_scalar(&scalar("VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw"));
        let (x, y) = (scalar("gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0"), scalar("SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps"));
        let public = bob.public();
        assert_eq!(public.x, "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ");
        assert_eq!(public.y, "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck");
        let secret = bob.agree(&x, &y).unwrap();
        let derived = concat_kdf(&secret, "A128GCM", b"Alice", b"Bob", 128);
        assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(derived), "VqqN6vgjbSBcIijNcacQGg");
        assert!(bob.agree(&x, &x).is_none(), "a point that is not on the curve");
    }

    /// RFC 3394, 4.6.
    #[test]
    fn keys_are_unwrapped_as_in_the_standards_example() {
        let bytes = |text: &str| (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..][..2], 16).unwrap()).collect::<Vec<_>>();
        let key = bytes("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F");
        let mut wrapped = bytes("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21");
        let plain = bytes("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F");
        assert_eq!(unwrap(&key, &wrapped).unwrap().to_vec(), plain);
        wrapped[3] ^= 1;
        assert!(unwrap(&key, &wrapped).is_err());
        assert!(unwrap(&key, &wrapped[..32]).is_err());
    }
}
