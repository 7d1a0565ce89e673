# Functions that stories are prepared with. LORA_HOME is the copy that a story works on, or the checkout itself.
set -u
git() { command git -c user.name=A -c user.email=a@example.org -c commit.gpgsign=false "$@"; }
# a tree with two files, and a patch that edits, adds and removes
tree() {
  mkdir -p tree/lib && seq 20 > tree/a.txt && echo b > tree/lib/b.txt
  cp -r tree new && (cd new && git init -q && git add -A && git commit -q -m 1 && sed -i 's/^5$/five/' a.txt \
    && echo n > n.txt && rm lib/b.txt && git add -A && git diff --cached > ../p.patch)
  rm -rf new; test -s p.patch
}
# a checkout with one small upstream, a patch that changes it, and the pin committed
small() {
  mkdir upstream && (cd upstream && git init -q -b main && seq 20 > a.py && mkdir lib && echo b > lib/b.py \
    && git add -A && git commit -q -m one)
  mkdir -p home/patches/alpha home/lora_training
  export LORA_HOME="$PWD/home" && cd home && git init -q -b main
  git -c protocol.file.allow=always submodule --quiet add ../upstream third_party/alpha 2> /dev/null
  touch lora_training/.keep && header first > patches/alpha/0001-first.patch
  printf '%s\n' 'diff --git a/a.py b/a.py' '--- a/a.py' '+++ b/a.py' '@@ -3,5 +3,5 @@' ' 3' ' 4' '-5' '+five' ' 6' ' 7' \
    >> patches/alpha/0001-first.patch
  echo 0001-first.patch > patches/alpha/series
  lora patch lock && lora patch docs && git add -A && git commit -q -m pins && cd ..
}
# a command that is killed at its Nth rename
kill_at() {
  { strace -o /dev/null -e trace=rename -e inject=rename:signal=KILL:when="$1" "${@:2}"; } 2> /dev/null
}
header() {
  printf '%s\n' "Description: $1" 'Author: A' 'Origin: vendor' 'Bug: none' 'Forwarded: no' 'Last-Update: 2026-01-01' \
    'Upstream-Version: 1' 'Reason: a test' 'Verification: true' 'Removal-Condition: version >= 99' '---'
}
# a copy of the checkout with its upstream trees
copy() { git clone -q "$CHECKOUT" home 2> /dev/null && cp -a "$CHECKOUT/third_party/." home/third_party/; }
# the smoke configuration, with its output here
smoke() {
  sed -e 's#"../output/smoke"#"out"#' "$CHECKOUT/configs/smoke.toml" > smoke.toml
}
# a training of 60 steps with a state every 20
LONG=(smoke.toml --set max_train_steps=60 --set save_every_n_steps=20 --set save_state=true)
# train it, and kill `lora` and its child as soon as a file of that pattern has content
killed_at() {
  {
    lora train "${LONG[@]}" "${@:2}" > log & until [ -s "$(compgen -G "$1")" ] || ! kill -0 $!; do sleep 0.1; done
    kill -KILL $! $(pgrep -P $!)
    wait $!
  } 2> /dev/null
}
# what is recorded of a run, without what depends on the moment or the machine
shown() { lora runs show "$1" | grep -v -e ^python -e ^gpus -e ^time; }
# the check of a configuration of that text
check() { printf '%b\n' "$1" > c.toml; shift; lora config check c.toml "$@"; }
export LORA_HOME="$([ -d "$PWD/home" ] && echo "$PWD/home" || echo "$CHECKOUT")"
