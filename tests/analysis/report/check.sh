#!/bin/sh
# Opens the pages of check.py in a browser: check.sh PYTHON FOLDER. Needs node and npm.
# A chromium on the PATH is used; otherwise playwright puts one into FOLDER, or apt-get installs it.
set -eu
python=$1 folder=$2
tool=$folder/node_modules/.bin/playwright-core
browsers=$folder/browsers

fail() {
	echo "check-report: $1" >&2
	exit 2
}

installed() {
	command -v chromium >/dev/null || ls "$browsers"/chromium*/INSTALLATION_COMPLETE >/dev/null 2>&1
}

command -v npm >/dev/null || fail "needs node and npm, for example: apt-get install npm"
mkdir -p "$folder"
npm install --prefix "$folder" --no-save --silent playwright-core axe-core >"$folder/npm.log" 2>&1 ||
	fail "npm cannot install playwright-core and axe-core: $folder/npm.log"
export PLAYWRIGHT_BROWSERS_PATH="$browsers"
if ! installed; then
	"$tool" install chromium >"$folder/browser.log" 2>&1 ||
		{ [ "$(id -u)" = 0 ] && apt-get install --yes chromium >>"$folder/browser.log" 2>&1; } || :
	installed || fail "no browser: install chromium, for example: apt-get install chromium; see $folder/browser.log"
fi
OMP_NUM_THREADS=1 "$python" -m tests.analysis.report.check "$folder/pages"
cp tests/analysis/report/check.mjs "$folder/"
node "$folder/check.mjs" "$folder/pages"
