"""Keystone's own code on key repositories and hashes that Nubo shares with it: one JSON request a line, one answer a line."""

import json
import sys

import keystone.conf
from keystone.common import fernet_utils
from keystone.common import password_hashing
from keystone.credential.providers import fernet as credential
from keystone.receipt import receipt_formatters
from keystone.token import token_formatters
from keystone.token.providers.jws import core as jws

CONF = keystone.conf.CONF


def configure(setup):
    keystone.conf.configure()
    CONF([], project='keystone', default_config_files=[])
    folder = setup['folder']
    CONF.set_override('key_repository', f'{folder}/fernet-keys', 'fernet_tokens')
    CONF.set_override('key_repository', f'{folder}/fernet-receipt-keys', 'fernet_receipts')
    CONF.set_override('key_repository', f'{folder}/credential-keys', 'credential')
    CONF.set_override('jws_public_key_repository', f'{folder}/jws-keys/public', 'jwt_tokens')
    CONF.set_override('jws_private_key_repository', f'{folder}/jws-keys/private', 'jwt_tokens')
    CONF.set_override('password_hash_rounds', 4, 'identity')


def open_token(token):
    names = ('user_id', 'methods', 'audit_ids', 'system', 'domain_id', 'project_id', 'trust_id', 'group_ids', 'idp_id',
             'protocol_id', 'access_token_id', 'app_cred_id', 'thumbprint')
    *fields, issued_at, expires_at = token_formatters.TokenFormatter().validate_token(token)
    return {**dict(zip(names, fields)), 'issued_at': issued_at, 'expires_at': expires_at}


def seal_token(claims):
    kind = getattr(token_formatters, claims.pop('kind'))
    return token_formatters.TokenFormatter().create_token(payload_class=kind, **claims)


def seal_jws(claims):
    return jws.JWSFormatter().create_token(**claims)[0]


def open_jws(token):
    return jws.JWSFormatter().validate_token(token)[0]


def open_receipt(receipt):
    user, methods, *_ = receipt_formatters.ReceiptFormatter().validate_receipt(receipt)
    return {'user_id': user, 'methods': methods}


def rotate(_):
    keys = fernet_utils.FernetUtils(CONF.fernet_tokens.key_repository, 3, 'fernet_tokens')
    keys.rotate_keys()


def open_credential(sealed):
    return credential.Provider().decrypt(sealed.encode())


def check_password(given):
    return password_hashing.check_password(given['password'], given['hash'])


def hash_password(given):
    CONF.set_override('password_hash_algorithm', given['algorithm'], 'identity')
    return password_hashing.hash_password(given['password'])


DO = {do.__name__: do for do in (
    open_token, seal_token, open_jws, seal_jws, open_receipt, rotate, open_credential, check_password, hash_password)}
configure(json.loads(sys.stdin.readline()))
for line in sys.stdin:
    [do, argument] = json.loads(line)
    print(json.dumps(DO[do](argument)), flush=True)
