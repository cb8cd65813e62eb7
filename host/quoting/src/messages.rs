//! What is spoken with AESM: the messages of Intel's `aesm_proto` (psw/ae/common/proto/messages.proto) that ECDSA quotes need, with its
//! numbers. Members that are not listed are skipped, as protobuf has it.

use prost::Message;

/// One question.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(message, optional, tag = "15")]
    pub(crate) init_quote_ex: Option<InitQuoteExRequest>,
    #[prost(message, optional, tag = "16")]
    pub(crate) get_quote_size_ex: Option<GetQuoteSizeExRequest>,
    #[prost(message, optional, tag = "17")]
    pub(crate) get_quote_ex: Option<GetQuoteExRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct InitQuoteExRequest {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(crate) att_key_id: Option<Vec<u8>>,
    #[prost(bool, required, tag = "3")]
    pub(crate) b_pub_key_id: bool,
    #[prost(uint64, optional, tag = "4")]
    pub(crate) buf_size: Option<u64>,
    #[prost(uint32, optional, tag = "9")]
    pub(crate) timeout: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetQuoteSizeExRequest {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(crate) att_key_id: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "9")]
    pub(crate) timeout: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetQuoteExRequest {
    #[prost(bytes = "vec", required, tag = "1")]
    pub(crate) report: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) att_key_id: Option<Vec<u8>>,
    #[prost(uint32, required, tag = "4")]
    pub(crate) buf_size: u32,
    #[prost(uint32, optional, tag = "9")]
    pub(crate) timeout: Option<u32>,
}

/// One answer. Codes that are missing count as 1, "unexpected".
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(message, optional, tag = "15")]
    pub(crate) init_quote_ex: Option<InitQuoteExResponse>,
    #[prost(message, optional, tag = "16")]
    pub(crate) get_quote_size_ex: Option<GetQuoteSizeExResponse>,
    #[prost(message, optional, tag = "17")]
    pub(crate) get_quote_ex: Option<GetQuoteExResponse>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct InitQuoteExResponse {
    #[prost(uint32, optional, tag = "1", default = "1")]
    pub(crate) error_code: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) target_info: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetQuoteSizeExResponse {
    #[prost(uint32, optional, tag = "1", default = "1")]
    pub(crate) error_code: Option<u32>,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) quote_size: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetQuoteExResponse {
    #[prost(uint32, optional, tag = "1", default = "1")]
    pub(crate) error_code: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) quote: Option<Vec<u8>>,
}

/// What a code of AESM's means, where that is known and helps.
pub(crate) fn meaning(code: u32) -> &'static str {
    match code {
        1 => "an unexpected error; its log knows more",
        2 | 24 => "there is no SGX device, or it may not use it",
        3 => "it does not like a parameter",
        12 | 13 => "it can't reach the network (its PCCS)",
        14 => "its proxy settings are wrong",
        16 => "provisioning failed",
        17 | 27 | 30 => "the service is not available",
        18 | 19 => "it is busy; try again",
        20 => "the platform's software must be updated",
        21 => "it has no memory left",
        29 => "no EPC page is left",
        31 => "the platform is not known to the provisioning service; it may have to be registered",
        38 => "it does not support ECDSA quotes; is libsgx-aesm-ecdsa-plugin installed?",
        40 | 41 => "a plug-in is missing: libsgx-aesm-ecdsa-plugin, or libsgx-dcap-default-qpl with its PCCS",
        42 | 43 => "its attestation key is not ready",
        44 => "it has no certificate for this platform: libsgx-dcap-default-qpl and a PCCS that knows the platform are needed",
        45 | 47 => "the report is not one for its quoting enclave",
        46 => "its enclaves were lost (the machine slept); try again",
        48 => "it can't load its quoting enclave",
        50 => "its attestation key could not be certified",
        _ => "see aesm_error.h",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_protobufs() {
        // Written down by hand: field 15, length 7; field 1: ab; field 3: true; field 4: 32.
        let request = InitQuoteExRequest { att_key_id: Some(vec![0xab]), b_pub_key_id: true, buf_size: Some(32), timeout: None };
        let bytes = Request { init_quote_ex: Some(request), ..Request::default() }.encode_to_vec();
        assert_eq!(bytes, [0x7a, 7, 0x0a, 1, 0xab, 0x18, 1, 0x20, 32]);
        // Field 17 takes two bytes. A code of zero is written, since it is required there.
        let request = GetQuoteExRequest { report: vec![1], att_key_id: None, buf_size: 0, timeout: Some(5) };
        let bytes = Request { get_quote_ex: Some(request), ..Request::default() }.encode_to_vec();
        assert_eq!(bytes, [0x8a, 1, 7, 0x0a, 1, 1, 0x20, 0, 0x48, 5]);
        let answer = Response::decode(&[0x8a, 1, 5, 0x08, 0, 0x12, 1, 9][..]).unwrap().get_quote_ex.unwrap();
        assert_eq!((answer.error_code(), answer.quote), (0, Some(vec![9])));
        assert_eq!(GetQuoteExResponse::default().error_code(), 1);
    }
}
