//! Certificates: read from Secrets, and made.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use x509_parser::{
    extensions::GeneralName,
    pem::Pem,
    prelude::{FromDer, X509Certificate},
};

use super::plan::{Action, Lives, later};

/// How far back a certificate begins, for API servers whose clock is behind; a tenth of its life at most.
const BACKDATED: std::time::Duration = std::time::Duration::from_mins(5);

/// What the certificate hangs on, all of it PEM. Empty where something is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Material {
    pub(crate) authority: Authority,
    pub(crate) leaf: Leaf,
}

/// What the operator keeps for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Authority {
    /// The authorities that are trusted, the one in use first.
    pub(crate) bundle: String,
    /// Key of the authority in use.
    pub(crate) key: String,
}

/// What the injector reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Its certificate.
    pub(crate) pem: String,
    /// The certificate's key.
    pub(crate) key: String,
}

/// What is asked of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    public_key: Vec<u8>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) dns_names: Vec<String>,
}

const CA: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const LEAF: &str = "tls.crt";
const LEAF_KEY: &str = "tls.key";

/// What is read from a Secret, and written into it.
pub(crate) trait Kept {
    /// The Secret's type, which can never be changed.
    const TYPE: &'static str;
    /// What `secret` holds of it.
    fn read(secret: Secret) -> Self;
    /// All that the Secret is to hold.
    fn data(&self) -> BTreeMap<String, ByteString>;
}

impl Kept for Authority {
    const TYPE: &'static str = "Opaque";

    fn read(secret: Secret) -> Self {
        let [bundle, key] = texts(secret, [CA, CA_KEY]);
        Self { bundle, key }
    }

    fn data(&self) -> BTreeMap<String, ByteString> {
        entries([(CA, &self.bundle), (CA_KEY, &self.key)])
    }
}

impl Kept for Leaf {
    const TYPE: &'static str = "kubernetes.io/tls";

    fn read(secret: Secret) -> Self {
        let [pem, key] = texts(secret, [LEAF, LEAF_KEY]);
        Self { pem, key }
    }

    fn data(&self) -> BTreeMap<String, ByteString> {
        entries([(LEAF, &self.pem), (LEAF_KEY, &self.key)])
    }
}

impl Material {
    /// The authority in use, if it is whole: its key fits.
    pub(crate) fn ca(&self) -> Option<Certificate> {
        Certificate::read(&self.authority.bundle)?.with(&self.authority.key)
    }

    /// The injector's certificate, if it is whole.
    pub(crate) fn leaf(&self) -> Option<Certificate> {
        Certificate::read(&self.leaf.pem)?.with(&self.leaf.key)
    }

    /// When the injector's certificate ends.
    pub(crate) fn leaf_end(&self) -> Option<Timestamp> {
        Some(self.leaf()?.not_after)
    }

    /// Whether authorities are trusted that are no longer in use.
    pub(crate) fn has_old_authorities(&self) -> bool {
        authorities(&self.authority.bundle).nth(1).is_some()
    }

    /// The authority of the certificate that the injector shows, if it is among ours or those `trusted` now.
    fn shown<'a>(&'a self, trusted: &'a str) -> Option<&'a str> {
        let issuer = Certificate::read(&self.leaf.pem)?.issuer;
        let signed = |pem: &&str| Certificate::read(pem).is_some_and(|authority| authority.subject == issuer);
        authorities(&self.authority.bundle).chain(authorities(trusted)).find(signed)
    }
}

impl Certificate {
    /// The first certificate of `pem`.
    fn read(pem: &str) -> Option<Self> {
        let pem = Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
        let (_, x509) = X509Certificate::from_der(&pem.contents).ok()?;
        let time = |seconds: i64| Timestamp::from_second(seconds).ok();
        let names = x509.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        Some(Self {
            subject: x509.subject().as_raw().to_vec(),
            issuer: x509.issuer().as_raw().to_vec(),
            public_key: x509.public_key().raw.to_vec(),
            not_before: time(x509.validity().not_before.timestamp())?,
            not_after: time(x509.validity().not_after.timestamp())?,
            dns_names: names.collect(),
        })
    }

    /// Itself, if `key` is its key.
    fn with(self, key: &str) -> Option<Self> {
        let key = KeyPair::from_pem(key).ok()?;
        (self.public_key == key.subject_public_key_info()).then_some(self)
    }
}

/// Carries out `action` on `found`, where the API server trusts the authorities `trusted` now.
///
/// Whoever signed the certificate that is shown now stays trusted, so that no step of what follows is an outage.
pub(super) fn make(
    action: Action,
    now: Timestamp,
    found: &Material,
    trusted: &str,
    lives: &Lives,
) -> Result<Material, rcgen::Error> {
    let in_use = authorities(&found.authority.bundle).next();
    match action {
        Action::Keep => Ok(found.clone()),
        Action::Prune => {
            let bundle = in_use.unwrap_or_default().to_owned();
            Ok(Material { authority: Authority { bundle, ..found.authority.clone() }, leaf: found.leaf.clone() })
        }
        Action::RenewLeaf => {
            let key = KeyPair::from_pem(&found.authority.key)?;
            let issuer = Issuer::from_ca_cert_pem(&found.authority.bundle, key)?;
            let mut authority = found.authority.clone();
            trust(&mut authority.bundle, found.shown(trusted));
            Ok(Material { authority, leaf: leaf(now, lives, &issuer)? })
        }
        Action::RenewAll => {
            let (params, key) = (authority(now, lives), KeyPair::generate()?);
            let mut authority = Authority { bundle: params.self_signed(&key)?.pem(), key: key.serialize_pem() };
            trust(&mut authority.bundle, in_use.filter(|_| found.ca().is_some()));
            trust(&mut authority.bundle, found.shown(trusted));
            Ok(Material { authority, leaf: leaf(now, lives, &Issuer::new(params, key))? })
        }
    }
}

/// Adds `authority` to `bundle`, unless it is there.
fn trust(bundle: &mut String, authority: Option<&str>) {
    let Some(authority) = authority.map(str::trim) else { return };
    if !authorities(bundle).any(|it| it.trim() == authority) {
        bundle.push_str(authority);
        bundle.push('\n');
    }
}

fn authorities(bundle: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle.split_inclusive(END).filter(|pem| !pem.trim().is_empty())
}

fn texts<const N: usize>(secret: Secret, keys: [&str; N]) -> [String; N] {
    let mut data = secret.data.unwrap_or_default();
    keys.map(|key| data.remove(key).and_then(|it| String::from_utf8(it.0).ok()).unwrap_or_default())
}

fn entries<const N: usize>(texts: [(&str, &String); N]) -> BTreeMap<String, ByteString> {
    texts.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec()))).collect()
}

fn leaf(now: Timestamp, lives: &Lives, issuer: &Issuer<'_, KeyPair>) -> Result<Leaf, rcgen::Error> {
    let mut params = CertificateParams::new([lives.dns_name.clone()])?;
    params.distinguished_name = named("Firebreak injector");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    span(&mut params, now, later(now, lives.leaf));
    let key = KeyPair::generate()?;
    let pem = params.signed_by(&key, issuer)?.pem();
    Ok(Leaf { pem, key: key.serialize_pem() })
}

/// An authority whose name says when it began, so that two of them are never taken for each other.
fn authority(now: Timestamp, lives: &Lives) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("Firebreak CA {}", now.as_millisecond()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    span(&mut params, now, later(now, lives.ca));
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn span(params: &mut CertificateParams, from: Timestamp, to: Timestamp) {
    let epoch = date_time_ymd(1970, 1, 1);
    let seconds = |time: Timestamp| std::time::Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0));
    let life = seconds(to).saturating_sub(seconds(from));
    params.not_before = epoch + seconds(from) - BACKDATED.min(life / 10);
    params.not_after = epoch + seconds(to);
}
