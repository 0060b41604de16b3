#!/usr/bin/env bash
# Make sure that there are Chromium and its driver, which the browser tests and the screenshots need. Debian's packages
# are installed where we are root or may become it without a password; elsewhere this says what to install.
set -euo pipefail

have() { command -v "$1" >/dev/null; }
if { have chromium || have chromium-browser || have google-chrome; } && have chromedriver; then exit 0; fi

become=()
if [ "$(id -u)" -ne 0 ]; then
  if have sudo && sudo -n true 2>/dev/null; then become=(sudo -n); else become=(false); fi
fi
if have apt-get && [ "${become[*]}" != false ]; then
  echo "Installing Chromium and its driver (350 MB, about a minute) ..."
  "${become[@]}" apt-get update -qq
  "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null
  exit 0
fi
echo "The browser tests need Chromium and its driver, and may not install them here. Install both, e.g.:" >&2
echo "  Debian: apt-get install chromium chromium-driver     Fedora: dnf install chromium chromedriver" >&2
exit 1
