-- For the scripts in celery_realtime/*/scripts: what Redis gives a script, and what `-- include: common` brings.
std = "lua51"
max_line_length = 120
read_globals = {"redis", "cjson", "cmsgpack", "KEYS", "ARGV", "common", "receipts", "streams"}
-- The tables of shared functions are used by the scripts that include them.
files["**/common.lua"] = {ignore = {"241/common"}}
files["**/receipts.lua"] = {ignore = {"241/receipts"}}
files["**/streams.lua"] = {ignore = {"241/streams"}}
