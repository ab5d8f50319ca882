"""A SAML identity provider (pysaml2). The first line sets it up; each further one asks for its answer to a browser or an enhanced client."""

import json
import sys

from saml2 import BINDING_HTTP_POST
from saml2 import saml
from saml2 import server
from saml2 import xmldsig
from saml2.config import IdPConfig


def provider(setup):
    consumers = ''.join(
        f'<md:AssertionConsumerService Binding="{BINDING_HTTP_POST}" Location="{url}" index="{at}"/>'
        for at, url in enumerate(setup['consumers']))
    metadata = (
        f'<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" entityID="{setup["audience"]}">'
        '<md:SPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">'
        f'{consumers}</md:SPSSODescriptor></md:EntityDescriptor>')
    return server.Server(config=IdPConfig().load({
        'entityid': setup['issuer'],
        'key_file': setup['key'],
        'cert_file': setup['certificate'],
        'metadata': {'inline': [metadata]},
        'service': {'idp': {
            'endpoints': {'single_sign_on_service': [(setup['issuer'] + '/sso', BINDING_HTTP_POST)]},
            'policy': {'default': {'lifetime': {'minutes': 5}, 'attribute_restrictions': None,
                                   'name_form': saml.NAME_FORMAT_URI}},
        }},
    }))


setup = json.loads(sys.stdin.readline())
idp = provider(setup)
for line in sys.stdin:
    wish = json.loads(line)
    answer = idp.create_authn_response(
        identity=wish['attributes'],
        in_response_to=wish.get('inResponseTo'),
        destination=wish['recipient'],
        sp_entity_id=setup['audience'],
        name_id=saml.NameID(format=saml.NAMEID_FORMAT_PERSISTENT, text=wish['subject']),
        authn={'class_ref': saml.AUTHN_PASSWORD, 'authn_auth': setup['issuer']},
        sign_response=wish.get('signResponse', False),
        sign_assertion=wish.get('signAssertion', True),
        sign_alg=xmldsig.SIG_RSA_SHA256,
        digest_alg=xmldsig.DIGEST_SHA256)
    print(json.dumps(str(answer)), flush=True)
