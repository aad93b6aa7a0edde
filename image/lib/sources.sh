#!/bin/bash
# Not run but sourced by the scripts that install Debian into an image: where this machine gets its packages from.

debian_sources() { # SUITE-PATTERN [COMPONENTS]: this machine's Debian mirror as one-line sources; COMPONENTS is `main` unless said
  # shellcheck disable=SC2016  # apt's own placeholders
  apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
    awk -v suites="^($1)\$" -v components="${2:-main}" '($1 == "Debian" || $1 == "Debian-Security") && $2 == "main" && $4 ~ suites {
      print "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " $3 " " $4 " " components }' | sort -u
}
