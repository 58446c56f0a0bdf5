package privatepg

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// settings are the defaults. Commits stay synchronous, because the order in
// which a commit becomes visible and durable is part of what tests look at;
// commit timestamps are how they measure latency.
func (s *Server) settings() map[string]string {
	listen := ""
	if s.tcp {
		listen = "127.0.0.1"
	}
	return map[string]string{
		"listen_addresses":        listen,
		"port":                    strconv.Itoa(s.port),
		"unix_socket_directories": s.dir.path,
		"unix_socket_permissions": "0700",
		"max_connections":         "200",
		"fsync":                   "off",
		"full_page_writes":        "off",
		"synchronous_commit":      "on",
		"track_commit_timestamp":  "on",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		"log_line_prefix":         "%m [%p] %q%u@%d ",
		"logging_collector":       "off",
	}
}

// appendSettings adds to a configuration file, in which the last word on a
// parameter counts. The file keeps its owner.
func appendSettings(file string, layers ...map[string]string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0) //nolint:gosec // in a data directory that initdb has just made for us
	if err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	var b strings.Builder
	for _, layer := range layers {
		for _, name := range slices.Sorted(maps.Keys(layer)) {
			fmt.Fprintf(&b, "%s = %s\n", name, quote(layer[name]))
		}
	}
	if _, err := f.WriteString(b.String()); err != nil {
		_ = f.Close() // the write's error says more
		return fmt.Errorf("configure the server: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	return nil
}

// quote writes a value as postgresql.conf reads it: in single quotes, with
// backslash escapes.
func quote(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(value) + "'"
}
