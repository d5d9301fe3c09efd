package image

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Materials is what an image is made of, by package URL.
type Materials map[string]Material

// Material is one Go module or Debian package.
type Material struct{ Name, Version string }

// Materials reads the Go modules from the programs themselves, and asks the
// system whose package every other file is. A file of nobody is an error.
func (t *Tree) Materials(s *System) (Materials, error) {
	all := Materials{}
	for _, file := range t.sources() {
		if info, err := buildinfo.ReadFile(file); err == nil {
			all.addGo(info)
			continue
		}
		p, ok := s.owner(file)
		if !ok {
			return nil, fmt.Errorf("listing materials: %s is of no package", file)
		}
		all["pkg:deb/debian/"+p.name+"@"+escaped(p.version)+"?arch="+p.architecture] = Material{p.name, p.version}
	}
	return all, nil
}

func (m Materials) addGo(info *buildinfo.BuildInfo) {
	m["pkg:golang/stdlib@"+strings.TrimPrefix(info.GoVersion, "go")] = Material{"stdlib", strings.TrimPrefix(info.GoVersion, "go")}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		m["pkg:golang/"+strings.ToLower(module.Path)+"@"+escaped(module.Version)] = Material{module.Path, module.Version}
	}
}

func escaped(version string) string {
	return strings.NewReplacer("+", "%2B", ":", "%3A").Replace(version)
}

// The parts of an SPDX 2.3 document that are used here.
type (
	spdxDocument struct {
		Version       string             `json:"spdxVersion"`
		License       string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		ID            string          `json:"SPDXID"`
		Name          string          `json:"name"`
		Version       string          `json:"versionInfo"`
		Purpose       string          `json:"primaryPackagePurpose"`
		Download      string          `json:"downloadLocation"`
		FilesAnalyzed bool            `json:"filesAnalyzed"`
		References    []spdxReference `json:"externalRefs,omitempty"`
	}
	spdxReference struct {
		Category string `json:"referenceCategory"`
		Kind     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		Of      string `json:"spdxElementId"`
		Kind    string `json:"relationshipType"`
		Related string `json:"relatedSpdxElement"`
	}
)

// SPDX is the bill of materials of an image with a tag, as SPDX 2.3 JSON. The
// same materials make the same bytes: the time it tells is not a real one.
func (m Materials) SPDX(name string) ([]byte, error) {
	const document, image = "SPDXRef-DOCUMENT", "SPDXRef-image"
	title, version, _ := strings.Cut(name, ":")
	d := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: document, Name: name,
		Creation: spdxCreation{Created: "1970-01-01T00:00:00Z", Creators: []string{"Tool: berth"}},
		Packages: []spdxPackage{{ID: image, Name: title, Version: version, Purpose: "CONTAINER", Download: "NOASSERTION"}},
	}
	d.Relationships = []spdxRelationship{{document, "DESCRIBES", image}}
	sum := sha256.New()
	for i, url := range slices.Sorted(maps.Keys(m)) {
		id := fmt.Sprintf("SPDXRef-%d", i)
		d.Packages = append(d.Packages, spdxPackage{
			ID: id, Name: m[url].Name, Version: cmp.Or(m[url].Version, "NOASSERTION"), Purpose: "LIBRARY", Download: "NOASSERTION",
			References: []spdxReference{{"PACKAGE-MANAGER", "purl", url}},
		})
		d.Relationships = append(d.Relationships, spdxRelationship{image, "CONTAINS", id})
		fmt.Fprintln(sum, url)
	}
	d.Namespace = fmt.Sprintf("https://berth.dev/spdx/%x", sum.Sum(nil))
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the bill of materials: %w", err)
	}
	return append(text, '\n'), nil
}
