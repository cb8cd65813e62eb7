//! A module that is a layer of its own in its image: containerd unpacks no such layer, so it is read from where containerd keeps it, by the gRPC API of
//! containerd (`api/services/containers`, `images`, `content`, version 1). Messages have the fields that are used here, with their numbers there.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use prost::Message;
use serde::Deserialize;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::bundle::CODE_MAX;
use crate::error::{Error, Result};

/// Media types of WebAssembly layers: the OCI artifact's, and those of other tools.
const MODULES: [&str; 3] =
    ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm", "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"];
/// Largest manifest or index that is read.
const MANIFEST_MAX: u64 = 4 << 20;

#[derive(Clone, PartialEq, Message)]
struct Name {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerAnswer {
    #[prost(message, optional, tag = "1")]
    container: Option<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "3")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageAnswer {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(message, optional, tag = "3")]
    target: Option<Target>,
}

#[derive(Clone, PartialEq, Message)]
struct Target {
    #[prost(string, tag = "2")]
    digest: String,
}

#[derive(Clone, PartialEq, Message)]
struct Read {
    #[prost(string, tag = "1")]
    digest: String,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

/// A manifest, or an index of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Manifest {
    layers: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

/// The module that is a layer of a container's image. `None`: no layer is one.
///
/// # Errors
/// When containerd does not say.
pub async fn module(address: &str, namespace: &str, container: &str) -> Result<Option<Vec<u8>>> {
    let mut containerd = Containerd::connect(address, namespace).await?;
    let found: ContainerAnswer = containerd.ask("containers.v1.Containers/Get", Name { name: container.to_owned() }).await?;
    let name = found.container.unwrap_or_default().image;
    let found: ImageAnswer = containerd.ask("images.v1.Images/Get", Name { name }).await?;
    let mut left = vec![found.image.and_then(|image| image.target).unwrap_or_default().digest];
    // An index of a few manifests, of which one has the module.
    for _ in 0..16 {
        let Some(digest) = left.pop() else { break };
        let text = containerd.read(digest, MANIFEST_MAX).await?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| Error::Refused(format!("the image's manifest: {error}")))?;
        if let Some(layer) = manifest.layers.iter().find(|layer| MODULES.contains(&layer.media_type.as_str())) {
            if layer.size > CODE_MAX {
                return Err(Error::Refused(format!("the module has {} bytes; a function has at most {CODE_MAX}", layer.size)));
            }
            return containerd.read(layer.digest.clone(), CODE_MAX).await.map(Some);
        }
        left.extend(manifest.manifests.into_iter().map(|manifest| manifest.digest));
    }
    Ok(None)
}

/// containerd's API.
struct Containerd {
    client: Grpc<Channel>,
    namespace: tonic::metadata::MetadataValue<tonic::metadata::Ascii>,
}

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error::Refused(format!("containerd does not give the image's module: {what}: {error}"))
}

impl Containerd {
    async fn connect(address: &str, namespace: &str) -> Result<Containerd> {
        let path = PathBuf::from(address.strip_prefix("unix://").unwrap_or(address));
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The name is asked for by HTTP, and means nothing.
        let channel = Endpoint::from_static("http://containerd").connect_with_connector(connector).await;
        let channel = channel.map_err(|error| failed(address, error))?;
        let namespace = namespace.parse().map_err(|error| failed(namespace, error))?;
        Ok(Containerd { client: Grpc::new(channel).max_decoding_message_size(64 << 20), namespace })
    }

    async fn request<Q>(&mut self, method: &'static str, message: Q) -> Result<(tonic::Request<Q>, PathAndQuery)> {
        self.client.ready().await.map_err(|error| failed(method, error))?;
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        let path = format!("/containerd.services.{method}").parse().map_err(|error| failed(method, error))?;
        Ok((request, path))
    }

    async fn ask<Q: Message + 'static, A: Message + Default + 'static>(&mut self, method: &'static str, message: Q) -> Result<A> {
        let (request, path) = self.request(method, message).await?;
        let answer = self.client.unary(request, path, ProstCodec::<Q, A>::default()).await;
        answer.map(tonic::Response::into_inner).map_err(|status| failed(method, status.message()))
    }

    /// Content, at most so much.
    async fn read(&mut self, digest: String, most: u64) -> Result<Vec<u8>> {
        const METHOD: &str = "content.v1.Content/Read";
        let (request, path) = self.request(METHOD, Read { digest }).await?;
        let answer = self.client.server_streaming(request, path, ProstCodec::<Read, Piece>::default()).await;
        let mut pieces = answer.map_err(|status| failed(METHOD, status.message()))?.into_inner();
        let mut content = Vec::new();
        while let Some(piece) = pieces.message().await.map_err(|status| failed(METHOD, status.message()))? {
            content.extend_from_slice(&piece.data);
            if content.len() as u64 > most {
                return Err(Error::Refused(format!("a part of the image has more than {most} bytes")));
            }
        }
        Ok(content)
    }
}
