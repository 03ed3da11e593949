#!/bin/sh
# Makes these vectors again with OpenSSL's command line alone (no code of this project): keys, certificates, messages.
# Keys are for tests only. Run in an empty folder; every run gives other octets, hence the files are kept.
set -eu
printf 'Content-Type: text/plain; charset=us-ascii\r\n\r\nBonjour,\r\nun compte rendu.\r\n' > content.bin
cert() { # NAME, key usage
    openssl req -x509 -new -key "$1.key" -days 7300 -subj "/C=FR/O=VECTOR/CN=$1" -addext "keyUsage=critical,$2" \
        -addext "extendedKeyUsage=emailProtection" -addext "subjectAltName=email:$1@vector.test" -addext "basicConstraints=critical,CA:FALSE" -out "$1.pem"
}
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key
cert rsa digitalSignature,keyEncipherment
for curve in P-256 P-384 P-521; do
    openssl genpkey -algorithm EC -pkeyopt "ec_paramgen_curve:$curve" -out "$curve.key"
    cert "$curve" digitalSignature,keyAgreement
done
sign() { openssl cms -sign -binary -outform DER -in content.bin "$@"; }
encrypt() { openssl cms -encrypt -binary -outform DER -in content.bin "$@"; }
sign -signer rsa.pem -inkey rsa.key -md sha256 -out rsa-sha256.p7s
sign -signer rsa.pem -inkey rsa.key -md sha512 -keyopt rsa_padding_mode:pss -out rsa-pss-sha512.p7s
sign -signer P-256.pem -inkey P-256.key -md sha256 -out ecdsa-sha256.p7s
sign -signer P-521.pem -inkey P-521.key -md sha512 -out ecdsa-sha512.p7s
sign -signer rsa.pem -inkey rsa.key -signer P-384.pem -inkey P-384.key -nodetach -stream -out two-signers-indefinite.p7m
sign -signer rsa.pem -inkey rsa.key -md sha1 -out rsa-sha1.p7s
encrypt -aes-256-cbc -stream -recip rsa.pem -out cbc-indefinite.p7m
encrypt -aes-256-gcm -recip rsa.pem -out gcm.p7m
encrypt -aes-128-cbc -recip rsa.pem -keyopt rsa_padding_mode:oaep -keyopt rsa_oaep_md:sha256 -out oaep-sha256.p7m
encrypt -aes-256-cbc -recip P-256.pem -out ecdh-sha1kdf-p256.p7m
encrypt -aes-256-gcm -recip P-384.pem -keyopt ecdh_kdf_md:sha384 -out ecdh-sha384kdf-p384-gcm.p7m
encrypt -aes-128-cbc -recip P-521.pem -keyopt ecdh_kdf_md:sha512 -keyid -out ecdh-sha512kdf-p521-keyid.p7m
encrypt -aes-256-cbc -recip rsa.pem -recip P-256.pem -out mixed.p7m
encrypt -des3 -recip rsa.pem -out 3des.p7m
