package privatepg

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// minMajor is the oldest PostgreSQL that tokenalert supports.
const minMajor = 14

// wellKnown are the folders in which distributions install PostgreSQL without
// putting its server programs in PATH.
var wellKnown = []string{
	"/usr/lib/postgresql/*/bin",         // Debian, Ubuntu
	"/usr/pgsql-*/bin",                  // Red Hat, from PostgreSQL's own repository
	"/usr/libexec/postgresql*",          // Alpine
	"/usr/local/pgsql/bin",              // built from source
	"/opt/homebrew/opt/postgresql*/bin", // Homebrew
	"/usr/local/opt/postgresql*/bin",    // Homebrew on Intel
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// find returns a folder whose PostgreSQL the account can run.
func find(ctx context.Context, o Options, acc account) (string, error) {
	if o.BinDir != "" {
		dir, err := filepath.Abs(o.BinDir)
		if err != nil {
			return "", fmt.Errorf("PostgreSQL in %s: %w", o.BinDir, err)
		}
		return dir, check(ctx, dir, acc)
	}
	return choose(ctx, acc, installed(), func() (string, error) { return fetch(ctx, o.Repository, CacheDir()) })
}

// choose takes the first folder that will do, and downloads one where none
// does.
func choose(ctx context.Context, acc account, dirs []string, download func() (string, error)) (string, error) {
	var refused []error
	for _, dir := range dirs {
		err := check(ctx, dir, acc)
		if err == nil {
			return dir, nil
		}
		refused = append(refused, err)
	}
	dir, err := download()
	if err == nil {
		err = check(ctx, dir, acc)
	}
	if err != nil {
		return "", fmt.Errorf("found no PostgreSQL to run: install PostgreSQL %d or later, or put the folder of its initdb and postgres in PATH: %w",
			minMajor, errors.Join(append(refused, err)...))
	}
	return dir, nil
}

// installed lists the folders to try, best first.
func installed() []string {
	var dirs []string
	if initdb, err := exec.LookPath("initdb"); err == nil {
		// A link in PATH stands alone, but initdb looks for postgres, and both
		// look for their share folder, beside themselves.
		if initdb, err = filepath.EvalSymlinks(initdb); err == nil {
			dirs = append(dirs, filepath.Dir(initdb))
		}
	}
	var known []string
	for _, pattern := range wellKnown {
		matches, _ := filepath.Glob(pattern)
		known = append(known, matches...)
	}
	slices.SortStableFunc(known, func(a, b string) int { return majorIn(b) - majorIn(a) })
	return append(dirs, known...)
}

var number = regexp.MustCompile(`\d+`)

// majorIn reads a version off a folder's name.
func majorIn(path string) int {
	major, _ := strconv.Atoi(number.FindString(path))
	return major
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// check runs the folder's programs as the account.
func check(ctx context.Context, dir string, acc account) error {
	for _, name := range []string{"initdb", "postgres"} {
		program := filepath.Join(dir, name)
		var out strings.Builder
		cmd := acc.command(program, "--version")
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := run(ctx, cmd); err != nil {
			return fmt.Errorf("%s does not run for user %s: %w %s", program, acc.name, err, strings.TrimSpace(out.String()))
		}
		match := versionLine.FindStringSubmatch(out.String())
		if match == nil {
			return fmt.Errorf("%s does not tell its version, but %q", program, out.String())
		}
		if major, err := strconv.Atoi(match[1]); err != nil || major < minMajor {
			return fmt.Errorf("%s is PostgreSQL %s, and %d is the oldest that will do", program, match[1], minMajor)
		}
	}
	return nil
}
