//! What people run raises nothing: real programs under a strict policy, each as a task of its own. Whatever they look
//! at, probe and try by themselves is no violation; what they ask of others is linked.

use std::time::Duration;

use ws_e2e::wait::let_pass;
use ws_e2e::{Mode, Stack, both_ways, needs, requires, show, wait_until};
use ws_model::Phase;

use crate::policy::{QUIET, violations};

both_ways! {
    what_people_run_raises_nothing
}

/// A program: its name, what the machine must have, what is run, and what it must say.
type Program = (&'static str, &'static [&'static str], &'static str, &'static str);

const PROGRAMS: &[Program] = &[
    (
        "looking-around",
        &[],
        "cd; ls -laR . | grep -c id_ed25519; find . -name 'id_*' -newer / | wc -l; du -a . | wc -l; stat .ssh/* .aws/*
test -r .ssh/id_ed25519 && echo readable; cat /etc/passwd /etc/hosts /etc/resolv.conf > /dev/null; env | wc -l
ls -laR . > /tmp/list; tar cf /tmp/list.tar -C /tmp list; tar tf /tmp/list.tar; grep -rs needle /etc > /tmp/found
ps aux | wc -l; df -h | wc -l; mount | wc -l; id; uname -a; getent hosts web; getent passwd root; echo looked",
        "readable|list|looked",
    ),
    (
        "python",
        &["python3"],
        "cat > /tmp/x.py <<'END'
import asyncio, ctypes, getpass, http.client, multiprocessing, os, pathlib, platform, shutil, socket, sqlite3, ssl
import subprocess, tempfile, urllib.request, uuid
print(urllib.request.urlopen('http://web:8080/').read())
# What a library does that knows both kinds of addresses.
async def both():
    reader, writer = await asyncio.open_connection('web', 8080, happy_eyeballs_delay=0.05)
    writer.write(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(await reader.read(12)); writer.close()
asyncio.run(both())
for family in (socket.AF_INET6, socket.AF_INET):
    try: socket.socket(family, socket.SOCK_STREAM).connect_ex(('localhost', 9))
    except OSError: pass
with sqlite3.connect('/tmp/x.db') as db:
    db.execute('create table t (x)'); db.execute('insert into t values (42)')
    print(db.execute('select x from t').fetchone())
with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, range(4))))
list(pathlib.Path.home().rglob('*')); list(os.walk(os.path.expanduser('~')))
print(getpass.getuser(), platform.platform(), uuid.uuid1(), shutil.disk_usage('/tmp').total > 0)
ctypes.CDLL(None).getpid(); ssl.create_default_context(); tempfile.mkdtemp()
# Whether there are keys is asked by many; only reading them is something else.
print([os.path.exists(os.path.expanduser(p)) for p in ('~/.aws/credentials', '~/.aws/config', '~/.netrc', '~/.kube/config')])
END
/usr/bin/python3 /tmp/x.py && /usr/bin/python3 -m json.tool /dev/null; /usr/bin/python3 -m site; echo ended",
        "b'web|HTTP/1.1 200|(42,)|6|ended",
    ),
    (
        "node",
        &["node"],
        "cat > /tmp/x.js <<'END'
const http = require('http'), fs = require('fs'), os = require('os'), net = require('net'), dns = require('dns');
const { Worker } = require('worker_threads');
http.get('http://web:8080/', (r) => r.on('data', (d) => console.log('linked ' + d)));
const s = http.createServer((q, r) => r.end('own')).listen(0, () =>
  http.get({ port: s.address().port, host: 'localhost' }, (r) => { r.on('data', (d) => console.log('' + d)); s.close(); }));
fs.watch('/tmp', () => {}).close(); os.networkInterfaces(); os.cpus(); os.userInfo(); os.homedir(); os.setPriority(0);
fs.readdirSync(os.homedir(), { recursive: true }); new Worker('1', { eval: true });
dns.lookup('web', { all: true }, () => {}); net.connect({ port: 1, host: 'localhost' }).on('error', () => {});
require('child_process').execFileSync('true'); require('crypto').randomBytes(8); fs.promises.readFile('/etc/hosts');
END
node /tmp/x.js",
        "linked web|own",
    ),
    (
        "npm",
        &["node", "npm"],
        "mkdir /tmp/app; cd /tmp/app; export NPM_CONFIG_UPDATE_NOTIFIER=false
echo 'console.log(\"started\", process.env.npm_lifecycle_event)' > index.js
npm init -y > /dev/null && npm start --silent -- x 2>&1 || { npm pkg set scripts.start='node index.js' && npm start; }
npm ls; npm run env --silent | wc -l",
        "started start",
    ),
    (
        "redis",
        &["redis"],
        "redis-server --save '' --appendonly no --port 7009 --dir /tmp > /tmp/log & p=$!
until redis-cli -p 7009 ping 2> /dev/null | grep PONG; do sleep 0.05; done
redis-cli -p 7009 set a b; redis-cli -p 7009 bgsave; redis-cli -p 7009 info | wc -l; kill $p; wait",
        "PONG",
    ),
    (
        "postgres",
        &["postgres"],
        "b=$(echo /usr/lib/postgresql/*/bin | tr ' ' '\\n' | tail -1); $b/initdb -D /tmp/pg --no-sync > /tmp/initdb
$b/pg_ctl -D /tmp/pg -o '-k /tmp -p 7010' -l /tmp/pg.log -w start > /dev/null
$b/psql -h localhost -p 7010 -d postgres -Atc 'create table t as select generate_series(1, 1000) x; select 6 * 7; vacuum t'
$b/pg_ctl -D /tmp/pg -m fast stop > /dev/null",
        "42",
    ),
    (
        "nginx",
        &["nginx", "curl"],
        "mkdir -p /tmp/n; cd /tmp/n; echo 'daemon off; pid /tmp/n/pid; error_log /tmp/n/error; events {}
http { access_log /tmp/n/access; server { listen 127.0.0.1:7011; location / { proxy_pass http://web:8080; } } }' > c
nginx -p /tmp/n -c /tmp/n/c & p=$!; until curl -sf http://127.0.0.1:7011/; do sleep 0.05; done; kill $p; wait",
        "web",
    ),
    (
        "git",
        &["git"],
        "cd /tmp; git init -q g; cd g; git config user.email a@b; git config user.name a; echo x > y; git add y
git commit -qm z; git gc -q; git worktree add -q ../h; git -c core.fsmonitor=false status -s; git log --oneline | wc -l
git remote add o file:///tmp/g; git fetch -q o; echo fetched",
        "1|fetched",
    ),
    (
        "curl",
        &["curl"],
        "curl -s http://web:8080/; curl -s http://localhost:1/ http://127.0.0.1:1/ --max-time 3; echo $?",
        "web|7",
    ),
    (
        "compilers",
        &["gcc", "perl"],
        "cd /tmp; echo 'int main(){return 0;}' > a.c; gcc -O2 -g a.c -o a.out && ./a.out && echo compiled
perl -MSocket -MPOSIX -e 'print POSIX::uname(), getpwuid($<), \"\\n\"; glob(\"~/.ssh/*\")'",
        "compiled|Linux",
    ),
    ("java", &["java"], "java -Xshare:auto -XshowSettings:all --version 2>&1 | tail -3", "OpenJDK"),
    (
        "sqlite",
        &["sqlite3"],
        "sqlite3 /tmp/s.db 'pragma journal_mode = wal; create table t (x); insert into t values (6 * 7); select x from t'",
        "42",
    ),
];

/// As libraries of clouds do: keys in the home, the role of the machine.
const SDK: &str = "cat ~/.aws/credentials; ls ~/.kube ~/.docker
curl -s --max-time 2 http://169.254.169.254/latest/meta-data/iam/; echo asked";

fn what_people_run_raises_nothing(mode: Mode) {
    requires!(mode, userns, netns, nft, seccomp);
    let there: Vec<&Program> = PROGRAMS.iter().filter(|(_, needs, ..)| needs::met(mode, needs)).collect();
    let mut yaml = "
policy: { posture: strict }
services:
  web: { command: [bin/ws-e2e-serve, 'http:8080'], ready: { tcp: ':8080' } }
"
    .to_owned();
    for (name, ..) in &there {
        yaml += &format!(
            "  {name}: {{ command: [/bin/sh, scripts/{name}.sh], kind: task, links: ['web:8080'], restart: 'no', \
             limits: {{ tmp: 512M }} }}\n"
        );
    }
    // What looks for its credentials by itself, with what the file then says about it.
    yaml += "  sdk: { command: [/bin/sh, scripts/sdk.sh], kind: task, restart: 'no', policy: { accept: [
      { class: decoys, to: '{home}/.aws/*', why: it looks for credentials },
      { class: network, to: '169.254.169.254:80', why: it looks for a role }] } }\n";
    let cargo = cargo(mode);
    yaml += cargo.as_ref().map_or("", String::as_str);
    let mut stack = Stack::new(mode, &yaml);
    for (name, _, script, _) in &there {
        stack.write(&format!("scripts/{name}.sh"), script);
    }
    stack.write("scripts/sdk.sh", SDK);
    let home = stack.home.to_string_lossy().into_owned();
    stack.write("workspace.yaml", &format!("name: {}\n{}", stack.token, yaml.replace("{home}", &home)));
    stack.write("made/Cargo.toml", "[package]\nname = 'made'\nversion = '0.0.0'\nedition = '2024'\n");
    stack.write("made/src/main.rs", "fn main() { println!(\"made by cargo\"); }\n");
    stack.write("made/build.rs", "fn main() { println!(\"cargo::rerun-if-changed=build.rs\"); }\n");
    stack.watch();
    let ran = stack.ws(&["up", "-d"]);
    assert_eq!(ran.code, 0, "{ran}\n{}", stack.story());
    let ended = wait_until(Duration::from_secs(100), "all programs end", || {
        let rows = stack.ps();
        let over = |phase: Phase| matches!(phase, Phase::Exited | Phase::Failed | Phase::Violated);
        let on: Vec<String> = rows
            .iter()
            .filter(|row| row.name.as_str() != "web" && !over(row.phase))
            .map(|row| format!("{} {:?}", row.name, row.phase))
            .collect();
        if on.is_empty() { Ok(rows) } else { Err(format!("{on:?}")) }
    });
    let_pass(QUIET);
    let rows = violations(&stack);
    assert!(rows.is_empty(), "{rows:#?}\n{}", stack.story());
    let mut names = Vec::new();
    let cargo: Option<Program> = cargo.map(|_| ("cargo", &[][..], "", "made by cargo"));
    let sdk: Program = ("sdk", &[], "", "aws_access_key_id|asked");
    for (name, _, _, says) in there.into_iter().chain(&cargo).chain([&sdk]) {
        let log = stack.ws(&["logs", name, "--tail", "10000"]).ok();
        let row = ended.iter().find(|row| row.name.as_str() == *name).expect("its row");
        assert_eq!(row.phase, Phase::Exited, "{name}: {row:?}\n{log}");
        for says in says.split('|') {
            assert!(log.contains(says), "{name}: `{says}` is not in\n{log}");
        }
        names.push(*name);
    }
    show(&format!("as {mode}: {} programs raised nothing: {}", names.len(), names.join(", ")));
    stack.down();
}

/// A build by the toolchain of whoever runs the tests. It lies in root's home then, where no other user looks.
fn cargo(mode: Mode) -> Option<String> {
    let reachable = mode == Mode::Root || !nix::unistd::geteuid().is_root();
    if !reachable || !needs::met(mode, &["rustup"]) {
        return None;
    }
    let home = needs::rustup_home()?;
    let (cargo, rustup) =
        (home.join(".cargo").display().to_string(), home.join(".rustup").display().to_string());
    Some(format!(
        "  cargo:
    command: [/bin/sh, -c, 'cp -r made /tmp && cd /tmp/made && {cargo}/bin/cargo run --offline --quiet']
    kind: task
    restart: 'no'
    environment: {{ CARGO_HOME: {cargo}, RUSTUP_HOME: {rustup} }}
    reads: [{cargo}/bin, {rustup}]
    limits: {{ tmp: 512M }}
"
    ))
}
