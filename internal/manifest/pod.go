package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Pod is one of a Deployment, whose volumes are mounted below a folder in
// place of the root.
type Pod struct {
	*Deployment
	Name string
	Root string
	// Secrets are those of the namespace: their keys, by their names.
	Secrets map[string]map[string]string
}

// Environment is a container's, as NAME=value. Paths in it that lead into one of
// its mounts lead below Root. What it does not know how to fill in is an error.
func (p *Pod) Environment(c Container) ([]string, error) {
	values := map[string]string{}
	for _, source := range c.EnvFrom {
		if source.ConfigMap == nil {
			return nil, fmt.Errorf("%s: envFrom something else than a ConfigMap", c.Name)
		}
		data, found := p.ConfigMaps[source.ConfigMap.Name]
		if !found && !source.ConfigMap.Optional {
			return nil, fmt.Errorf("%s: no ConfigMap %s", c.Name, source.ConfigMap.Name)
		}
		maps.Copy(values, data)
	}
	for _, v := range c.Env {
		value, found, err := p.value(c, v, values)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", c.Name, v.Name, err)
		}
		if found {
			values[v.Name] = value
		}
	}
	var environment []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		if slices.ContainsFunc(c.Mounts, func(m Mount) bool { return strings.HasPrefix(value, m.Path+"/") }) {
			value = filepath.Join(p.Root, value)
		}
		environment = append(environment, name+"="+value)
	}
	return environment, nil
}

// reference is one to a variable that was given before (manual of Kubernetes,
// Define Dependent Environment Variables).
var reference = regexp.MustCompile(`\$\(([A-Za-z0-9_]*)\)`)

func (p *Pod) value(c Container, v Variable, before map[string]string) (value string, found bool, err error) {
	look := func(in map[string]map[string]string, what string, at *Reference) (string, bool, error) {
		value, found := in[at.Name][at.Key]
		if !found && !at.Optional {
			return "", false, fmt.Errorf("no %s %s with the key %s", what, at.Name, at.Key)
		}
		return value, found, nil
	}
	switch from := v.From; {
	case from.Secret != nil:
		return look(p.Secrets, "Secret", from.Secret)
	case from.ConfigMap != nil:
		return look(p.ConfigMaps, "ConfigMap", from.ConfigMap)
	case from.Field != nil && from.Field.Path == "metadata.name":
		return p.Name, true, nil
	case from.Resource != nil && from.Resource.Resource == "limits.memory":
		limit, err := bytesOf(c.Resources.Limits["memory"])
		if err != nil {
			return "", false, err
		}
		divisor, err := bytesOf(cmp.Or(from.Resource.Divisor, "1"))
		if err != nil {
			return "", false, err
		}
		return strconv.FormatInt((limit+divisor-1)/divisor, 10), true, nil
	case from.Field != nil, from.Resource != nil, v.Value == "":
		return "", false, errors.New("where its value comes from is not understood")
	}
	value = reference.ReplaceAllStringFunc(v.Value, func(r string) string {
		name := reference.FindStringSubmatch(r)[1]
		if _, ok := before[name]; !ok {
			err = fmt.Errorf("there is no %s before it", name)
		}
		return before[name]
	})
	return value, true, err
}

// bytesOf reads a quantity of memory as manifests have it: 64Mi.
func bytesOf(quantity string) (int64, error) {
	for suffix, bytes := range map[string]int64{"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30} {
		if number, ok := strings.CutSuffix(quantity, suffix); ok {
			n, err := strconv.ParseInt(number, 10, 64)
			return n * bytes, err
		}
	}
	return strconv.ParseInt(quantity, 10, 64)
}

// Mount writes the Secrets that containers of the pod find in their mounts, and
// again what they are by now. As with a kubelet a mount holds a link for each
// key, by way of another link that is replaced: whoever reads finds all of the
// Secret as it was or all of it as it is.
func (p *Pod) Mount() error {
	for _, c := range slices.Concat(p.Template.Spec.InitContainers, p.Template.Spec.Containers) {
		for _, m := range c.Mounts {
			for _, v := range p.Template.Spec.Volumes {
				if v.Name == m.Name && v.Secret != nil {
					if err := p.mount(v, filepath.Join(p.Root, m.Path)); err != nil {
						return fmt.Errorf("mount %s: %w", v.Name, err)
					}
				}
			}
		}
	}
	return nil
}

func (p *Pod) mount(v Volume, at string) error {
	secret, found := p.Secrets[v.Secret.Name]
	if !found && !v.Secret.Optional {
		return fmt.Errorf("no Secret %s", v.Secret.Name)
	}
	files := map[string]string{} // their contents
	for key, value := range secret {
		if len(v.Secret.Items) == 0 {
			files[key] = value
		}
	}
	for _, item := range v.Secret.Items {
		value, found := secret[item.Key]
		if !found && !v.Secret.Optional {
			return fmt.Errorf("no key %s in the Secret %s", item.Key, v.Secret.Name)
		}
		if found {
			files[item.Path] = value
		}
	}
	if err := os.MkdirAll(at, 0o750); err != nil {
		return err
	}
	data, err := os.MkdirTemp(at, "..data-")
	if err != nil {
		return err
	}
	for name, content := range files {
		err := os.WriteFile(filepath.Join(data, name), []byte(content), 0o600)
		if err == nil {
			err = replaceLink(filepath.Join("..data", name), filepath.Join(at, name))
		}
		if err != nil {
			return err
		}
	}
	return replaceLink(filepath.Base(data), filepath.Join(at, "..data"))
}

// replaceLink makes a link, or has it lead elsewhere, at once.
func replaceLink(to, path string) error {
	next := path + ".next"
	if err := os.Symlink(to, next); err != nil {
		return err
	}
	return os.Rename(next, path)
}
