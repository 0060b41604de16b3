#!/usr/bin/env bash
# Make the two library files of this folder again. Needs Node and the npm registry; reading a page needs neither.
#
#   bash arts/pages/vendor/build.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y >/dev/null
npm install --no-audit --no-fund --silent d3-hierarchy@3.1.3 temml@0.13.5 esbuild@0.28.2

# Of d3-hierarchy only what draws tidy trees; esbuild leaves the rest out.
echo 'export { hierarchy, tree } from "d3-hierarchy";' >entry.js
npx esbuild entry.js --bundle --minify --format=iife --global-name=d3 --target=es2022 \
  --banner:js='/* d3-hierarchy 3.1.3 (ISC), see LICENSES.txt */' --outfile="$here/d3-hierarchy.min.js" --log-level=warning

{ echo '/* Temml 0.13.5 (MIT), see LICENSES.txt */'; cat node_modules/temml/dist/temml.min.js; } >"$here/temml.min.js"

for library in d3-hierarchy temml; do
  printf '%s %s\n\n' "$library" "$(node -p "require('./node_modules/$library/package.json').version")"
  cat "node_modules/$library/LICENSE"
  printf '\n\n'
done >"$here/LICENSES.txt"
