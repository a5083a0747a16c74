//! Quantities with their units in the type.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `n` mebibytes.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that divides it exactly: `512M`, `1536K`, `1000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
        for (size, unit) in UNITS {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Thousandths of a processor: 1500 is one and a half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpus(pub u32);

impl fmt::Display for MilliCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1000.0)
    }
}

/// An IPv4 network in which the workspace's addresses lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    base: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The default of every workspace: each has its own network namespaces, so all may use the same.
    pub const DEFAULT: Self = Self { base: Ipv4Addr::new(10, 77, 0, 0), prefix: 16 };

    /// A network of `prefix` bits that starts at `base`; `None` when `base` has host bits or the
    /// prefix is not in 8..=29 (six hosts are the least that is of use: network, gateway, four services).
    #[must_use]
    pub fn new(base: Ipv4Addr, prefix: u8) -> Option<Self> {
        let good = (8..=29).contains(&prefix) && u32::from(base) & !Self::mask_of(prefix) == 0;
        good.then_some(Self { base, prefix })
    }

    const fn mask_of(prefix: u8) -> u32 {
        u32::MAX << (32 - prefix)
    }

    /// The network's first address.
    #[must_use]
    pub fn base(&self) -> Ipv4Addr {
        self.base
    }

    /// The number of bits that are fixed.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The gateway: the first host.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1)
    }

    /// How many services have room: all hosts but the gateway.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        (1 << (32 - self.prefix)) - 3
    }

    /// The `n`th address that a service may have, counted from 0.
    ///
    /// # Panics
    /// When `n` is not below [`Self::capacity`].
    #[must_use]
    pub fn host(&self, n: u32) -> Ipv4Addr {
        assert!(n < self.capacity(), "the {n}th host of a network of {} hosts", self.capacity());
        Ipv4Addr::from(u32::from(self.base) + 2 + n)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_in_their_largest_exact_unit() {
        for (bytes, text) in
            [(0, "0"), (1000, "1000"), (1536, "1536"), (2048, "2K"), (512 << 20, "512M"), (3 << 30, "3G")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn a_subnet_has_a_gateway_and_hosts() {
        let net = Subnet::new(Ipv4Addr::new(10, 0, 0, 0), 29).unwrap();
        assert_eq!(net.gateway(), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(net.capacity(), 5);
        assert_eq!(net.host(4), Ipv4Addr::new(10, 0, 0, 6));
        assert_eq!(Subnet::new(Ipv4Addr::new(10, 0, 0, 1), 29), None);
        assert_eq!(Subnet::new(Ipv4Addr::new(10, 0, 0, 0), 30), None);
    }
}
