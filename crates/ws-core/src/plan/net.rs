//! Addresses: a digest of the name, so that each keeps its own when others come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};
use ws_model::{ConfigPath, Problem, ServiceName, Subnet};

/// How many hosts of a network are used at most.
///
/// A service's number is also its user id's offset in a range of 65,536 ids, of which the first ones
/// have other uses.
const POOL: u32 = 60_000;

/// How many hosts of a network are used, where that is enough for `count` of them.
pub(super) fn pool(subnet: Subnet, count: u64) -> Result<u32, Box<Problem>> {
    let pool = subnet.capacity().min(POOL);
    if count > u64::from(pool) {
        return Err(Box::new(
            Problem::error(
                "WS0501",
                ConfigPath::root().key("network").key("subnet"),
                format!("the network {subnet} has room for {pool} services, and there are {count}"),
            )
            .help("give the workspace a larger private network: `network: { subnet: 10.77.0.0/16 }`"),
        ));
    }
    Ok(pool)
}

/// The numbers of all who have an address: [`Subnet::host`] of a number is the address.
///
/// Who had an address in `previous` keeps it; the others get, in order of names, the first free one from the
/// digest of their name on.
pub(super) fn numbers<'a>(
    names: &BTreeSet<&'a ServiceName>,
    subnet: Subnet,
    previous: &BTreeMap<ServiceName, Ipv4Addr>,
) -> Result<BTreeMap<&'a ServiceName, u32>, Box<Problem>> {
    let pool = pool(subnet, names.len() as u64)?;
    let mut numbers: BTreeMap<&ServiceName, u32> = BTreeMap::new();
    let mut taken: BTreeSet<u32> = BTreeSet::new();
    for name in names {
        let kept = previous
            .get(*name)
            .and_then(|address| u32::from(*address).checked_sub(u32::from(subnet.host(0))))
            .filter(|number| *number < pool);
        if let Some(number) = kept
            && taken.insert(number)
        {
            numbers.insert(name, number);
        }
    }
    for name in names {
        if !numbers.contains_key(name) {
            let number = free(name, pool, &taken).expect("there are as many numbers as names");
            taken.insert(number);
            numbers.insert(name, number);
        }
    }
    Ok(numbers)
}

/// The first number below `pool` that is not taken, from the digest of a name on and around.
pub(super) fn free(name: &ServiceName, pool: u32, taken: &BTreeSet<u32>) -> Option<u32> {
    let first = digest(name) % pool;
    (first..pool).chain(0..first).find(|number| !taken.contains(number))
}

/// The hardware address that belongs to an address: locally administered, so it meets no real one.
pub(super) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x77, a, b, c, d]
}

fn digest(name: &ServiceName) -> u32 {
    let digest = Sha256::digest(name.as_str().as_bytes());
    let mut first = [0; 4];
    first.copy_from_slice(&digest[..4]);
    u32::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> BTreeSet<ServiceName> {
        texts.iter().map(|text| ServiceName::new(*text).unwrap()).collect()
    }

    fn numbers<'a>(
        names: &'a BTreeSet<ServiceName>,
        subnet: Subnet,
        previous: &BTreeMap<ServiceName, Ipv4Addr>,
    ) -> Result<BTreeMap<&'a ServiceName, u32>, Box<Problem>> {
        super::numbers(&names.iter().collect(), subnet, previous)
    }

    #[test]
    fn a_name_keeps_its_number_when_others_come() {
        let few = names(&["api", "db"]);
        let many = names(&["aaa", "api", "cache", "db", "zzz"]);
        let before = numbers(&few, Subnet::DEFAULT, &BTreeMap::new()).unwrap();
        let after = numbers(&many, Subnet::DEFAULT, &BTreeMap::new()).unwrap();
        for name in &few {
            assert_eq!(before[name], after[name], "{name}");
        }
    }

    #[test]
    fn a_full_network_is_used_to_the_last_address_and_no_further() {
        let subnet = Subnet::new(Ipv4Addr::new(10, 0, 0, 0), 29).unwrap();
        let five = names(&["a", "b", "c", "d", "e"]);
        let numbers_of_five = numbers(&five, subnet, &BTreeMap::new()).unwrap();
        assert_eq!(numbers_of_five.values().collect::<BTreeSet<_>>().len(), 5);
        let six = names(&["a", "b", "c", "d", "e", "f"]);
        assert_eq!(numbers(&six, subnet, &BTreeMap::new()).unwrap_err().code, "WS0501");
    }

    #[test]
    fn an_old_address_is_kept_unless_it_is_of_another_network_or_taken() {
        let two = names(&["api", "db"]);
        let api = ServiceName::new("api").unwrap();
        let db = ServiceName::new("db").unwrap();
        let at = |a: &str| a.parse::<Ipv4Addr>().unwrap();

        let kept = numbers(&two, Subnet::DEFAULT, &BTreeMap::from([(db.clone(), at("10.77.0.9"))])).unwrap();
        assert_eq!(Subnet::DEFAULT.host(kept[&db]), at("10.77.0.9"));

        for bad in ["10.78.0.9", "10.77.0.1", "10.77.0.0", "10.77.255.255", "9.0.0.1"] {
            let numbers = numbers(&two, Subnet::DEFAULT, &BTreeMap::from([(db.clone(), at(bad))])).unwrap();
            assert_ne!(Subnet::DEFAULT.host(numbers[&db]), at(bad));
        }

        let both = BTreeMap::from([(api.clone(), at("10.77.0.9")), (db.clone(), at("10.77.0.9"))]);
        let numbers = numbers(&two, Subnet::DEFAULT, &both).unwrap();
        assert_ne!(numbers[&api], numbers[&db]);
    }
}
