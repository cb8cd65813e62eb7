//! LZF, in which Redis packs strings of more than twenty bytes.

/// Unpacks. `None`: it does not unpack to so many bytes.
pub fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < packed.len() {
        let control = usize::from(packed[at]);
        at += 1;
        if control < 32 {
            bytes.extend_from_slice(packed.get(at..at + control + 1)?);
            at += control + 1;
        } else {
            let mut count = control >> 5;
            if count == 7 {
                count += usize::from(*packed.get(at)?);
                at += 1;
            }
            let back = (control & 0x1f) << 8 | usize::from(*packed.get(at)?);
            at += 1;
            let from = bytes.len().checked_sub(back + 1)?;
            if bytes.len() + count + 2 > length {
                return None;
            }
            for place in from..from + count + 2 {
                bytes.push(bytes[place]);
            }
        }
        if bytes.len() > length {
            return None;
        }
    }
    (bytes.len() == length).then_some(bytes)
}
