package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"tokenalert/migrations"
)

// Stamped by the build (-ldflags "-X main.version=… -X main.commit=…"), else
// what the Go tool has noted.
var (
	version = "devel"
	commit  = ""
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, the commit and the schema version",
		Long: `Print the version, the commit that it was built from, the version of the schema
that it installs, and that of Go. It runs on that schema and on one ahead.`,
		Example: `  tokenalert version`,
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "tokenalert %s (commit %s, schema %d, %s)\n",
				buildVersion(), buildCommit(), migrations.Version(), runtime.Version())
			return err
		},
	}
}

// buildVersion is the stamped version, else that of the module, as after
// `go install` of a release.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "devel" && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return version
}

// buildCommit is the stamped commit, else what the Go tool has noted.
func buildCommit() string {
	if commit != "" {
		return commit
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	return revision + dirty
}
