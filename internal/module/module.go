// Package module finds the sources for what builds and mutates them.
package module

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Root is the folder of the module that the current folder is in.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
