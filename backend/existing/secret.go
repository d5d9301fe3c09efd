package existing

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/postgres"
)

// Keys of an administrator's Secret.
const (
	keyURI      = "uri_dsn.txt"
	keyHost     = "hostname"
	keyPort     = "port"
	keyUser     = "username"
	keyPassword = "password"
	keySSLMode  = "sslmode"
	keyDatabase = "database"
	keyCA       = "ca.crt"
)

// What a Secret that does not say gets.
const (
	defaultPort     = 5432
	defaultSSLMode  = "verify-full"
	defaultDatabase = "postgres"
)

// hostKeys are the names that the host has with db-controller, RDS and Crossplane.
var hostKeys = []string{keyHost, "host", "endpoint"}

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

// ReadTarget says how a Secret's administrator logs in: by uri_dsn.txt where it
// is there, else by hostname (or host, or endpoint), port (5432), username,
// password, sslmode (verify-full) and database (postgres); ca.crt is trusted
// alone. Its error names the key and what would be accepted, never a value.
func ReadTarget(data map[string][]byte) (postgres.Target, error) {
	var target postgres.Target
	var err error
	if uri := text(data, keyURI); uri != "" {
		target, err = postgres.ParseDSN(uri)
		if err != nil {
			err = fmt.Errorf("key %s: %s", keyURI, postgres.Explain(err).Message)
		} else if target.User == "" {
			err = fmt.Errorf("key %s must name a user, as in postgres://user:password@host:5432/postgres", keyURI)
		}
	} else {
		target, err = readKeys(data)
	}
	if err != nil {
		return postgres.Target{}, err
	}
	if target.SSLMode == "" {
		target.SSLMode = defaultSSLMode
	}
	if target.Database == "" {
		target.Database = defaultDatabase
	}
	target.RootCA, err = readCA(data[keyCA])
	return target, err
}

func readKeys(data map[string][]byte) (postgres.Target, error) {
	target := postgres.Target{Port: defaultPort, User: text(data, keyUser), SSLMode: text(data, keySSLMode), Database: text(data, keyDatabase)}
	hostKey := keyHost
	for _, key := range slices.Backward(hostKeys) {
		if value := text(data, key); value != "" {
			hostKey, target.Host = key, value
		}
	}
	// An editor's line end is no part of a password.
	target.Password = strings.TrimRight(string(data[keyPassword]), "\r\n")
	if _, ok := data[keyPassword]; !ok {
		return target, fmt.Errorf("key %s is missing; give the administrator's password, or all in %s", keyPassword, keyURI)
	}
	if target.User == "" {
		return target, fmt.Errorf("key %s is missing; give the administrator's role, or all in %s", keyUser, keyURI)
	}
	if target.Host == "" {
		return target, fmt.Errorf("key %s is missing; give the server's host name or IP address, or all in %s", keyHost, keyURI)
	}
	if !isHost(target.Host) {
		return target, fmt.Errorf("key %s must be one host name or IP address, without port", hostKey)
	}
	if value := text(data, keyPort); value != "" {
		port, err := strconv.ParseUint(value, 10, 16)
		if err != nil || port == 0 {
			return target, fmt.Errorf("key %s must be a number from 1 to 65535", keyPort)
		}
		target.Port = uint16(port)
	}
	if target.SSLMode != "" && !slices.Contains(sslModes, target.SSLMode) {
		return target, fmt.Errorf("key %s must be one of %s", keySSLMode, strings.Join(sslModes, ", "))
	}
	return target, nil
}

func text(data map[string][]byte, key string) string { return strings.TrimSpace(string(data[key])) }

func isHost(host string) bool {
	if strings.Contains(host, ":") {
		_, err := netip.ParseAddr(host)
		return err == nil
	}
	return !strings.ContainsFunc(host, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._", r)
	})
}

var errCA = errors.New("key " + keyCA + " must hold PEM certificates alone (-----BEGIN CERTIFICATE-----)")

// readCA checks every certificate: one that is skipped would be missed only
// when the server's own certificate changes.
func readCA(raw []byte) ([]byte, error) {
	rest := []byte(strings.TrimSpace(string(raw)))
	if len(rest) == 0 {
		return nil, nil
	}
	for len(rest) > 0 {
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errCA
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, errCA
		}
		rest = []byte(strings.TrimSpace(string(after)))
	}
	return raw, nil
}
