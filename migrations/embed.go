// Package migrations holds the product's schema, one step per file, in goose's
// format. Package store applies them.
package migrations

import (
	"embed"
	"strconv"
	"strings"
)

// FS holds the migrations.
//
//go:embed *.sql
var FS embed.FS

// Version is the schema version that this binary brings: the highest number of
// a migration.
func Version() int64 {
	entries, err := FS.ReadDir(".")
	if err != nil || len(entries) == 0 {
		panic("migrations: the embedded files cannot be read")
	}
	number, _, _ := strings.Cut(entries[len(entries)-1].Name(), "_")
	version, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		panic("migrations: a file name does not begin with a number: " + entries[len(entries)-1].Name())
	}
	return version
}
