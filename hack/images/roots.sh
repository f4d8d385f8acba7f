# Sourced by build: makes the directory trees that become layers, under $work/roots, from Debian packages, a busybox
# from Debian's source, two C programs and files/.

here=$repo/hack/images

# === packages ===

# unpack ROOT NAME...
unpack() {
  local root=$roots/$1 name
  shift
  fetch "$@"
  mkdir -p "$root"
  for name in "$@"; do dpkg-deb -x "$cache"/debs/"${name}"_*.deb "$root"; done
}

# === programs ===

compile() { gcc -Os -static -s -Wall -Wextra -Werror -o "$work/$1" "$here/$1.c"; }

# Debian's busybox-static lacks pgrep and ipcs, and its shell runs its own applets even where /bin/ls is masked: so one
# with the default configuration, from Debian's source. Kept apart from the images: it takes most of a minute.
busybox() {
  local built=$cache/busybox-defconfig src=$work/busybox apt
  if [ ! -x "$built" ]; then
    say "building busybox from Debian's source"
    mkdir -p "$src"/{lists,parts}
    source_list "$src/parts"
    apt="apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$src/parts
      -o Dir::State::lists=$src/lists -o APT::Sandbox::User=root"
    # shellcheck disable=SC2086 # a command line in a variable
    (cd "$src" && $apt update && $apt source busybox >/dev/null 2>&1)
    (
      cd "$src"/busybox-1.*/
      make defconfig >/dev/null
      # tc needs kernel headers that are older than Debian's.
      sed -i -e 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/' -e 's/^CONFIG_TC=y/# CONFIG_TC is not set/' .config
      KCONFIG_NOTIMESTAMP=1 make -j"$(nproc)" busybox >"$src/log" 2>&1 || { tail "$src/log" >&2; die "busybox does not build"; }
      mv busybox "$built"
    )
  fi
  install -m755 "$built" "$work/busybox.bin"
}

# source_list DIR: Debian's own package sources, as source packages.
source_list() {
  local file
  for file in $(grep -lsE '^Suites:.*\bbookworm\b' /etc/apt/sources.list.d/*.sources); do
    sed 's/^Types:.*/Types: deb-src/' "$file" >"$1/${file##*/}"
  done
  grep -hsE '^deb .*\bdebian.*\bbookworm(-[a-z]+)? ' /etc/apt/sources.list /etc/apt/sources.list.d/*.list |
    sed 's/^deb /deb-src /' >"$1/debian.list" || true
}

# === trees ===

busybox_root() {
  local root=$roots/busybox applet
  mkdir -p "$root"/{bin,etc,root,tmp,var/spool/mail,var/www,usr/bin,usr/sbin,sbin,proc,sys,dev,home}
  chmod 1777 "$root/tmp"
  chmod 700 "$root/root"
  cp -r "$here/files/busybox/." "$root"
  install -m755 "$work/busybox.bin" "$root/bin/busybox"
  # Hard links, as upstream's image has them: the MaskedPaths spec masks /bin/ls alone.
  for applet in $("$work/busybox.bin" --list); do
    [ "$applet" = busybox ] || ln "$root/bin/busybox" "$root/bin/$applet"
  done
}

small_roots() {
  local mark
  mkdir -p "$roots"/{pause,nonewprivs,group/home/default-user}
  install -m755 "$work/pause" "$roots/pause/pause"
  install -m4755 "$work/nonewprivs" "$roots/nonewprivs/nnp"
  cp -r "$here/files/group/." "$roots/group"
  chown 1000:1000 "$roots/group/home/default-user"
  for mark in 1 2 3 latest digest tag-test tag-all tags; do
    mkdir -p "$roots/mark-$mark"
    echo "test image $mark" >"$roots/mark-$mark/mark-$mark"
  done
}

nginx_root() {
  local root=$roots/nginx
  unpack nginx libc6 libpcre2-8-0 libssl3 zlib1g libcrypt1 nginx nginx-common
  slim nginx
  rm -rf "$root/usr/share/nginx/html"
  mkdir -p "$root"/{run,var/log/nginx,var/lib/nginx} "$roots/hostnet"
  ln -sfn /run "$root/var/run"
  ln -sf /dev/stdout "$root/var/log/nginx/access.log"
  ln -sf /dev/stderr "$root/var/log/nginx/error.log"
  cp -r "$here/files/nginx/." "$root"
  cp -r "$here/files/hostnet/." "$roots/hostnet"
  loads nginx /usr/sbin/nginx
}

httpd_root() {
  local root=$roots/httpd home=$roots/httpd/usr/local/apache2 module
  unpack httpd libc6 libgcc-s1 libpcre2-8-0 libcrypt1 apache2-bin libapr1 libaprutil1 libexpat1 libuuid1
  slim httpd
  mkdir -p "$home"/{bin,modules,logs} "$root/etc/apache2"
  cp -r "$here/files/httpd/." "$root"
  mv "$root/usr/sbin/apache2" "$home/bin/httpd"
  for module in mpm_event authz_core dir; do mv "$root/usr/lib/apache2/modules/mod_$module.so" "$home/modules/"; done
  rm -rf "$root/usr/lib/apache2"
  ln -s /usr/local/apache2/conf/httpd.conf "$root/etc/apache2/apache2.conf" # where Debian's build looks
  loads httpd /usr/local/apache2/bin/httpd
}

# Eight layers of 413 MB, for measuring pulls.
big_roots() {
  unpack big-0 libc6 libgcc-s1 libstdc++6 libtinfo6 bash coreutils
  unpack big-1 perl-modules-5.36 libperl5.36 perl-base
  unpack big-2 libpython3.11-minimal libpython3.11-stdlib python3.11-minimal python3.11
  unpack big-3 libicu72 libxml2
  unpack big-4 git git-man
  unpack big-5 cpp-12 libgcc-12-dev
  unpack big-6 libllvm15
  unpack big-7 vim-runtime tzdata
}

# A Debian with what the tests call, and agnhost, which is most of them: servers, and programs that look at their surroundings.
# A user and a group are asked for by name.
agnhost_root() {
  local root=$roots/agnhost module
  need_packages mmdebstrap
  TMPDIR=$work mmdebstrap --quiet --mode=root --variant=minbase --include=curl,dnsutils,iproute2,net-tools,netcat-openbsd,procps \
    bookworm "$roots/debian" >&2
  rm -rf "$roots"/debian/{dev/*,var/{lib/apt,cache}/*,usr/share/{doc,info,locale,man}}
  mkdir -p "$root"/{etc,uploads} "$roots/kitten/etc"
  echo '{"image": "kitten.jpg"}' >"$roots/kitten/data.json"
  echo 'NAME="Alpine Linux"' >"$roots/kitten/etc/os-release" # what a test looks for
  install -m755 "$(tool agnhost)" "$root/agnhost"
  ln -s agnhost "$root/agnhost-2"
  module=$(cd "$repo/hack/tools/e2e" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)
  install -m644 "$module"/test/images/agnhost/porter/localhost.{crt,key} "$root/"
  cp "$roots"/debian/etc/{passwd,group} "$root/etc/"
  echo 'user-defined-in-image:x:1000:1000::/:/bin/sh' >>"$root/etc/passwd"
  printf '%s\n' 'user-defined-in-image:x:1000:' 'group-defined-in-image:x:50000:user-defined-in-image' >>"$root/etc/group"
}

slim() {
  local root=$roots/$1
  rm -rf "$root"/usr/share/{doc,man,lintian,vim} "$root/usr/lib/x86_64-linux-gnu/gconv" \
    "$root"/etc/{ufw,init.d,logrotate.d,default} "$root/lib/systemd"
}

# loads ROOT PROGRAM: all its libraries are in the tree.
loads() {
  local needs
  needs=$(chroot "$roots/$1" /lib64/ld-linux-x86-64.so.2 --list "$2") || die "$2 cannot be loaded"
  ! grep 'not found' <<<"$needs" >&2 || die "$2 lacks libraries"
}
